# SPDX-License-Identifier: Apache-2.0
"""The bench: raters with faults, runs that go on where they stopped, results in one file."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hero_core import embedding, seeding
from hero_core.__main__ import main
from hero_core.bench import command, cost, raters
from hero_core.bench.command import key
from hero_core.bench.measures import diversity, free_entropy
from hero_core.bench.raters import RATERS, rate
from hero_core.bench.records import current
from hero_core.bench.run import Run, RunSettings, complete, load_judge
from hero_core.bench.traps import batch_cosine, wrong_best
from hero_core.bench.use import Use, draw, scaled
from hero_core.demo import free_folder
from hero_core.errors import HeroError
from hero_core.feedback import Feedback
from hero_core.lora import LoRAConfig, LoRAState
from hero_core.policy import no_progress
from hero_core.rollout import SamplingSettings
from hero_core.store.files import write_json
from hero_core.tiny.judges import Judgement
from hero_core.tiny.model import load_tiny
from hero_core.tiny.policy import TinyPolicy
from hero_core.tiny.tasks import TASKS
from hero_core.update.ddpo import DDPOSettings

SMALL = RunSettings(
    rounds=2, pictures=4, fresh_pictures=2, fresh_rounds=(0, 2), sampling=SamplingSettings(steps=6, scored_steps=2),
    update=DDPOSettings(scored_steps=2),
)  # fmt: skip


def half_good(pictures: torch.Tensor) -> Judgement:
    """The first half is good, the later the clearer."""
    n = len(pictures)
    return Judgement(np.arange(n) < n // 2, np.linspace(0, 1, n, dtype=np.float32))


def marks(rater: str, n: int = 1000, seed: int = 0):  # type: ignore[no-untyped-def]
    return rate(half_good, torch.zeros(n, 3, 2, 2), RATERS[rater], np.random.default_rng(seed))


# -- raters --------------------------------------------------------------------------------------------------------


def test_the_perfect_rater_marks_as_the_judge_sees_and_picks_the_clearest() -> None:
    feedback = marks("perfect", 10)
    assert feedback.good == [0, 1, 2, 3, 4]
    assert feedback.bad == [5, 6, 7, 8, 9]
    assert feedback.best == 4


@pytest.mark.parametrize(("rater", "share"), [("noisy_5", 0.05), ("noisy_10", 0.10), ("noisy_20", 0.20)])
def test_a_noisy_rater_flips_that_share_of_marks(rater: str, share: float) -> None:
    feedback = marks(rater)
    wrong = sum((label == "good") != (picture < 500) for picture, label in feedback.labels.items())
    assert wrong / 1000 == pytest.approx(share, abs=0.03)


def test_a_rater_may_mark_only_a_third() -> None:
    feedback = marks("third")
    assert len(feedback.labels) == 333
    assert 250 > len([p for p in feedback.labels if p < 500]) > 100


def test_the_second_rater_calls_only_the_clearer_half_good() -> None:
    feedback = marks("two")
    assert all(feedback.labels[p] == "good" for p in range(0, 500, 2))
    assert [feedback.labels[p] for p in (1, 249, 251, 499)] == ["bad", "bad", "good", "good"]


def test_best_may_be_chosen_badly_or_anyhow() -> None:
    assert marks("worst_best").best == 0
    chosen = {marks("any_best", seed=seed).best for seed in range(20)}
    assert len(chosen) > 10
    assert all(0 <= best < 500 for best in chosen)


def test_without_a_good_the_old_best_is_kept_or_none() -> None:
    none_good = lambda pictures: Judgement(np.zeros(4, bool), np.zeros(4, np.float32))  # noqa: E731
    assert raters.perfect(none_good, torch.zeros(4, 3, 2, 2)).best is None
    assert raters.perfect(none_good, torch.zeros(4, 3, 2, 2), has_old_best=True).best == "keep"


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    pictures = torch.stack([torch.full((3, 4, 4), value) for value in (0.0, 0.5, 1.0)])
    assert diversity(pictures) == pytest.approx((0.5 + 0.5 + 1.0) / 3)


def test_free_entropy_counts_good_pictures_alone() -> None:
    rng = np.random.default_rng(0)

    def scenes(success: bool, count: int) -> torch.Tensor:
        drawn = np.stack([TASKS["count"].render(rng, success).picture for _ in range(count)])
        return torch.from_numpy(drawn.astype(np.float32) / 255).permute(0, 3, 1, 2)

    good, bad = scenes(True, 40), scenes(False, 10)
    entropy = free_entropy("count", good)
    assert entropy is not None
    assert 1.5 < entropy < np.log2(6) + 0.1  # the widest attribute has six even bins
    assert free_entropy("count", torch.cat([good, bad])) == entropy
    assert free_entropy("count", good[:1].expand(30, -1, -1, -1)) == 0
    assert free_entropy("count", bad) is None
    assert free_entropy("a task of one's own", good) is None


# -- slips on purpose ----------------------------------------------------------------------------------------------


def test_the_wrong_best_is_a_place_among_the_goods() -> None:
    feedback = Feedback(6, {0: "bad", 1: "good", 2: "bad", 4: "good", 5: "good"}, 4)
    assert wrong_best(feedback, 1) == feedback
    assert wrong_best(feedback, 2).best == 1
    assert wrong_best(replace(feedback, best=1), 3) == replace(feedback, labels={**feedback.labels, 0: "good"}, best=0)


def test_the_cosine_over_the_batch_learns_nothing_from_one_triplet_and_goes_away_again() -> None:
    right = embedding.triplet_loss
    anchor, positive, negative = torch.rand(3, 1, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with batch_cosine():
        (gradient,) = torch.autograd.grad(embedding.triplet_loss(anchor[0], positive, negative, 0.5), positive)
        assert float(gradient.abs().max()) < 1e-6
    assert embedding.triplet_loss is right
    (gradient,) = torch.autograd.grad(embedding.triplet_loss(anchor[0], positive, negative, 0.5), positive)
    assert float(gradient.abs().max()) > 1e-3


# -- a LoRA in use -------------------------------------------------------------------------------------------------


def _used(use: Use, lora: LoRAState | None = None) -> torch.Tensor:
    model = load_tiny()
    lora = lora or TinyPolicy(model, "").fresh_lora(LoRAConfig(), seeding.generator(0))
    return draw(model, "colour", lora, use, n=3, rows=2, seed=0)


def test_without_noise_finer_steps_change_little_and_both_solvers_agree() -> None:
    fine = _used(Use("", sampler="euler", steps=40))
    scale = float(fine.std())
    for use in (Use("", sampler="euler", steps=60), Use("", sampler="dpmpp_2m", scheduler="karras", steps=40)):
        assert float((_used(use) - fine).square().mean().sqrt()) < 0.25 * scale
    assert float((_used(Use("")) - fine).square().mean().sqrt()) > 0.5 * scale


def test_strength_scales_what_the_lora_adds() -> None:
    state = TinyPolicy(load_tiny(), "").fresh_lora(LoRAConfig(), seeding.generator(0))
    state = replace(state, weights={k: v + 0.05 for k, v in state.weights.items()})
    assert torch.equal(_used(Use(""), scaled(state, 0.0)), _used(Use("")))
    assert not torch.equal(_used(Use(""), scaled(state, 0.5)), _used(Use("")))
    half = scaled(state, 0.5).weights
    assert all(torch.equal(half[k], v * (0.5 if "lora_B" in k else 1)) for k, v in state.weights.items())


# -- runs ----------------------------------------------------------------------------------------------------------


def rows_of(settings: RunSettings, folder: Path) -> list[dict]:
    return complete(Run(settings, folder, lambda part, round: no_progress), folder / "result.json", lambda row: None)


def numbers(rows: list[dict]) -> list[dict]:
    """Rows without what differs from run to run."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "saved", "peak_memory")} for row in rows]


@pytest.mark.parametrize("method", ["hero", "nft", "score_action", "d3po"])
def test_the_flow_goes_through_every_kind_of_update(method: str, tmp_path: Path) -> None:
    drawn = SamplingSettings(steps=8, scored_steps=5)
    small = replace(SMALL, method=method, model="flow", rounds=1, fresh_rounds=(0,), sampling=drawn, update=None)
    run = Run(small, tmp_path, lambda part, round: no_progress)
    run.judge = half_good
    assert run.policy.flow
    base, first = complete(run, tmp_path / "result.json", lambda row: None)
    assert run.session.description["checkpoint"] == "HERO tiny (flow)"
    assert base["success_fresh"] == 0.5
    assert first["optimizer_steps"] > 0
    assert first.get("ratio_error", 0) < 1e-6


def test_the_two_kinds_of_the_model_are_two_runs_and_unet_is_the_one_of_before() -> None:
    unet, flow = replace(SMALL, model="unet"), replace(SMALL, model="flow")
    assert (unet, unet.base_key) == (SMALL, SMALL.base_key)
    assert key(unet.to_json()) != key(flow.to_json())
    assert unet.base_key != flow.base_key
    before = {name: value for name, value in unet.to_json().items() if name != "model"}
    assert key(current(before)) == key(unet.to_json()), "recorded runs are not run again"
    with pytest.raises(HeroError, match="no model 'dit'; choose one of unet, flow"):
        replace(SMALL, model="dit")
    with pytest.raises(HeroError, match="leave it out with --model flow"):
        replace(SMALL, model="flow", use=8)


def test_a_run_measures_what_it_promises(tmp_path: Path) -> None:
    rows = rows_of(SMALL, tmp_path)
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert ["success_fresh" in row for row in rows] == [True, False, True]
    assert any("ratio_error" in row for row in rows)
    for row in rows[1:]:
        assert row["skip"] or row["ratio_error"] < 1e-6
        assert row["marks"] == 4
        assert 0 <= row["success_mixture"] <= 1
        assert row["diversity_mixture"] > 0
        assert set(row["seconds"]) >= {"sample", "decode", "embed", "update", "save"}
        assert row["peak_memory"] > 1e8
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["settings"]["update"]["rule"] == "ddpo"
    assert record["versions"]["torch"] == torch.__version__


def test_a_stopped_run_goes_on_to_the_same_rows(tmp_path: Path) -> None:
    whole = rows_of(SMALL, tmp_path / "whole")
    rows_of(replace(SMALL, rounds=1), tmp_path / "parts")
    record = tmp_path / "parts" / "result.json"
    cut = json.loads(record.read_text())
    cut["rows"] = cut["rows"][:1]  # killed after the round was saved and before its row was written
    record.write_text(json.dumps(cut))
    assert numbers(rows_of(SMALL, tmp_path / "parts")) == numbers(whole)


def test_without_noise_guidance_every_round_is_fresh(tmp_path: Path) -> None:
    run = Run(replace(SMALL, method="ddpo"), tmp_path, lambda part, round: no_progress)
    complete(run, tmp_path / "result.json", lambda row: None)
    assert run.session.state().mixture is None
    assert run.session.state().lora is not None
    assert run.session.state().embedding is None


def test_noise_alone_leaves_the_weights(tmp_path: Path) -> None:
    run = Run(replace(SMALL, method="noise"), tmp_path, lambda part, round: no_progress)
    complete(run, tmp_path / "result.json", lambda row: None)
    assert run.session.state().mixture is not None
    assert run.session.state().lora is None


# -- the command ---------------------------------------------------------------------------------------------------

QUICK = [
    "--rounds", "1", "--pictures", "4", "--fresh-pictures", "2", "--sampling-steps", "6", "--jobs", "1",
    "--sampling-scored-steps", "2", "--update-scored-steps", "2",
]  # fmt: skip


def test_the_command_writes_all_runs_and_runs_none_twice(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "runs.json"
    arguments = ["bench", *QUICK, "--method", "hero", "noise", "--json", str(out), "--update-lr", "0.002"]
    assert main(arguments) == 0
    runs = json.loads(out.read_text())["runs"]
    assert sorted(run["settings"]["method"] for run in runs) == ["hero", "noise"]
    hero = next(run for run in runs if run["settings"]["method"] == "hero")
    assert hero["settings"]["update"]["lr"] == 0.002
    assert len(hero["rows"]) == 2
    assert not out.with_suffix(".work").exists()
    before = out.stat().st_mtime_ns
    assert main(arguments) == 0
    assert out.stat().st_mtime_ns == before
    assert "2 runs, 2 of them done" in capsys.readouterr().out


def test_truth_values_are_options_too() -> None:
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    for given, expected in (([], True), (["--no-update-centred"], False), (["--update-centred"], True)):
        options = parser.parse_args(["--json", "x.json", "--method", "nft", *given])
        (settings,) = command.all_settings(options)
        assert settings.update.centred is expected  # type: ignore[union-attr]


def test_a_task_of_ones_own(tmp_path: Path) -> None:
    code = "def bright(pictures):\n    mean = pictures.mean((1, 2, 3))\n    return mean > 0.5, mean\n"
    (tmp_path / "taste.py").write_text(code)
    judge = load_judge(f"{tmp_path / 'taste.py'}:bright")
    assert judge(torch.tensor([0.2, 0.9])[:, None, None, None].expand(2, 3, 4, 4)).good.tolist() == [False, True]
    with pytest.raises(HeroError, match="no function 'dark'"):
        load_judge(f"{tmp_path / 'taste.py'}:dark")
    with pytest.raises(HeroError, match=r"FILE\.py:NAME"):
        load_judge("taste")


@pytest.mark.parametrize(("arguments", "words"), [
    (["--task", "hands"], "There is no task 'hands'"),
    (["--method", "magic"], "There is no method 'magic'"),
    (["--rater", "cat"], "There is no rater 'cat'"),
    (["--prompt", "a cat"], "takes both: a prompt and a judge"),
    (["--mixture-beta", "2"], "beta is 2"),
])  # fmt: skip
def test_what_does_not_exist_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], words: str
) -> None:
    assert main(["bench", "--json", str(tmp_path / "x.json"), *arguments]) == 1
    assert words in " ".join(capsys.readouterr().err.split())


def test_equal_settings_have_equal_names() -> None:
    one, same, other = (json.loads(json.dumps(s.to_json())) for s in (SMALL, replace(SMALL), replace(SMALL, seed=1)))
    assert command.key(one) == command.key(same) != command.key(other)


# -- cost ----------------------------------------------------------------------------------------------------------


def test_rules_are_timed_on_one_round_and_told_against_ddpo(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: settings for name, settings in cost.rules(8).items() if name in ("ddpo", "nft")}
    monkeypatch.setattr(cost, "rules", lambda pictures: few)
    found = cost.measure(pictures=8, repeats=1)
    ddpo, nft = found["rows"]
    assert nft["memory"] < 0.75 * ddpo["memory"]  # one prompt a picture, where guidance takes two
    assert min(ddpo["seconds"], nft["seconds"]) > 0
    cells = [cell.strip() for cell in cost.table(found).splitlines()[3].split("|")]
    assert cells[1:4:2] == ["nft", f"{nft['seconds'] / ddpo['seconds']:.2f}"]


def test_the_peak_counts_what_is_held_at_a_time() -> None:
    def work() -> None:
        for _ in range(3):
            held = torch.ones(256, 1024)  # 1 MiB, let go before the next
            del held

    assert cost.peak(work) == 2**20


def test_a_demo_goes_on_where_it_stopped_and_never_in_the_folder_of_another(tmp_path: Path) -> None:
    settings, folder = RunSettings(rounds=2), tmp_path / "demo"
    assert free_folder(folder, settings) == folder
    write_json(folder / "result.json", {"settings": settings.to_json(), "rows": [{"round": 0}, {"round": 1}]})
    assert free_folder(folder, settings) == folder
    assert free_folder(folder, replace(settings, rounds=9)) == folder
    assert free_folder(folder, replace(settings, rounds=1)) == tmp_path / "demo-2", "it is finished"
    assert free_folder(folder, replace(settings, method="nft")) == tmp_path / "demo-2"
    write_json(tmp_path / "demo-2/result.json", {"settings": settings.to_json(), "rows": [{"round": 0}] * 3})
    assert free_folder(folder, replace(settings, method="nft")) == tmp_path / "demo-3"
    rated = tmp_path / "rated"
    Run(settings, rated, lambda part, round: no_progress, "demo")  # stopped before its first row was written
    assert free_folder(rated, settings) == rated
    (rated / "sessions/demo/rounds/0001").mkdir(parents=True)
    assert free_folder(rated, settings) == tmp_path / "rated-2", "a person's marks are in it"
