# SPDX-License-Identifier: Apache-2.0
"""Large latents in little room: what is kept of them, what an update makes of it, and that nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rounds import N, begin, finish, play, rollout_of, same_state
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from toy import SHAPE, ToyPolicy

from hero_core import compact, embedding, seeding
from hero_core.compact import bits_for, from_levels, pack, rounded, to_levels, unpack
from hero_core.errors import HeroError
from hero_core.feedback import Feedback
from hero_core.loop import kept_rollout, rate_latents, sample_round, save_round
from hero_core.reward import Reward
from hero_core.rollout import Rollout, SamplingSettings, no_transitions, sample
from hero_core.store import Session, SessionSettings, Store
from hero_core.store.files import read_record, write_record
from hero_core.store.state import read_rollout, slim_rollout, write_rollout
from hero_core.transition import Transitions
from hero_core.update import RULES
from hero_core.update.common import OptimizerSettings, scored_steps
from hero_core.update.d3po import D3POSettings
from hero_core.update.ddpo import DDPOSettings
from hero_core.update.score_action import ScoreActionSettings

LATENTS = {"sdxl": (4, 128, 128), "flux": (16, 128, 128), "flux2": (128, 64, 64), "wide": (16, 104, 152)}
"""Of pictures of a million pixels."""
RECORDED = [DDPOSettings(lr=1e-2), D3POSettings(lr=1e-2), ScoreActionSettings(lr=1e-2, critic_steps=5, min_r2=-10)]
"""The rules that learn from recorded steps."""


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy's latents count as large."""
    monkeypatch.setattr(compact, "LARGE", 0)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Store(tmp_path / "hero", tmp_path / "loras").open("rose", SessionSettings(seed=7))


def opened(store: Store) -> Session:
    """The session as another program finds it on the disk."""
    return Store(store.root, store.lora_dir).open("rose", SessionSettings(seed=7))


def drawn(policy: ToyPolicy, **more: Any) -> tuple[Any, Rollout]:
    lora, whole = rollout_of(policy)
    return lora, sample(policy, lora, whole.z_T, whole.source, whole.settings, seed=0, round=1, compact=True, **more)


# -- levels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [6, 7, 8])
def test_a_level_is_at_most_half_a_step_off(bits: int) -> None:
    x = torch.randn(2, 3, 4, 5, 7, generator=seeding.generator("x")) * torch.tensor([0.01, 1, 30, 400])[:, None, None]
    levels, scale = to_levels(x, bits)
    span = x.amax((-2, -1)) - x.amin((-2, -1))
    assert (levels.dtype, int(levels.max()), int(levels.min())) == (torch.uint8, 2**bits - 1, 0)
    off = (from_levels(levels, scale) - x).abs() / span[..., None, None]
    assert float(off.max()) <= 0.501 / (2**bits - 1)
    assert float(off.max()) > 0.4 / (2**bits - 1)


def test_a_flat_channel_stays_as_it_is() -> None:
    x = torch.full((1, 1, 2, 8, 8), 3.25)
    assert torch.equal(from_levels(*to_levels(x, 6)), x)


@pytest.mark.parametrize("bits", [6, 7, 8])
def test_packing_leaves_no_gap_and_loses_nothing(bits: int) -> None:
    levels = torch.randint(0, 2**bits, (3, 5, 4, 7, 3), generator=seeding.generator("levels")).to(torch.uint8)
    packed = pack(levels, bits)
    assert packed.shape == (3, -(-5 * 4 * 7 * 3 * bits // 8))
    assert torch.equal(unpack(packed, bits, tuple(levels.shape)), levels)


def test_many_numbers_get_fewer_bits_and_never_less_than_six() -> None:
    assert [bits_for(5 * numbers) for numbers in (65_536, 262_144, 400_000, 524_288, 2_097_152)] == [8, 8, 8, 6, 6]


# -- what is on the disk ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "limit"), [("sdxl", 60), ("flux", 120), ("flux2", 200), ("wide", 120)])
def test_a_round_of_64_takes_less_than_200_mb(tmp_path: Path, name: str, limit: int) -> None:
    """Two pictures on the disk, times 32; and less yet once the round is saved."""
    n, k, shape = 2, 5, LATENTS[name]
    z_0 = rounded(torch.randn(n, *shape))
    levels = torch.full((n, k, *shape), 2 ** bits_for(k * z_0[0].numel()) - 1, dtype=torch.uint8)
    fields = no_transitions(z_0) | {
        "steps": torch.arange(k).expand(n, k), "x": levels, "scale": torch.ones(n, k, shape[0], 2)
    }  # fmt: skip
    path, settings = tmp_path / "rollout.safetensors", SamplingSettings(steps=20)
    rollout = Rollout(1, z_0, z_0, torch.full((n,), -1), torch.linspace(1, 0, 21), **fields, settings=settings, seed=5)
    write_rollout(path, rollout)
    assert 32 * path.stat().st_size <= limit * 10**6
    back = read_rollout(path)
    assert torch.equal(back.x, levels)
    assert torch.equal(back.z_0, z_0)
    assert (back.seed, back.settings, back.recorded) == (5, settings, k)
    slim_rollout(path)
    slim = read_rollout(path)
    assert path.stat().st_size == pytest.approx(2 * z_0.numel(), rel=0.02)
    assert torch.equal(slim.z_0, z_0)
    assert (slim.compact, slim.recorded, slim.noise_known) == (False, 0, False)


@pytest.mark.usefixtures("all_large")
def test_what_is_sampled_is_what_is_read_back(session: Session) -> None:
    policy = ToyPolicy()
    play(session, policy)  # so that the noise comes from a mixture
    first = sample_round(session, policy, N, SamplingSettings(steps=12, micro_batch=4))
    back = kept_rollout(session)
    assert first.compact
    assert back is not None
    for name in ("z_T", "z_0", "source", "sigmas", "steps", "x", "scale", "x_next", "x0_hat", "log_prob"):
        assert torch.equal(getattr(first, name), getattr(back, name)), name
    assert (back.settings, back.seed, back.round) == (first.settings, first.seed, 2)
    assert (first.x.dtype, first.x_next.shape, first.log_prob.shape) == (torch.uint8, (N, 0, *SHAPE), (N, 0))
    file = load_file(session.round(2).folder / "rollout.safetensors")
    assert file.keys() == {"z_0", "source", "sigmas", "steps", "x", "scale"}
    assert file["z_0"].dtype == torch.float16


@pytest.mark.usefixtures("all_large")
def test_the_pictures_are_those_of_float32_to_the_rounding_of_float16() -> None:
    policy = ToyPolicy()
    whole, (_, little) = rollout_of(policy)[1], drawn(policy)
    assert torch.equal(little.z_0, whole.z_0.half().float())
    assert torch.equal(little.steps, whole.steps)


@pytest.mark.usefixtures("all_large")
def test_a_lost_rollout_is_drawn_again_to_the_same_bits_with_its_marks(session: Session) -> None:
    policy = ToyPolicy()
    play(session, policy)
    begin(session, policy)
    round_ = session.round(2)
    path, marks = round_.folder / "rollout.safetensors", round_.marks()
    before = path.read_bytes()
    path.unlink()
    sample_round(session, policy, N, SamplingSettings(steps=12, micro_batch=4))
    assert path.read_bytes() == before
    assert round_.marks() == marks
    assert round_.has_pictures


@pytest.mark.usefixtures("all_large")
def test_latents_of_any_sampler_are_kept_in_little_room_too(session: Session) -> None:
    policy, g = ToyPolicy(), seeding.generator("others")
    z_0, z_T = torch.randn(2, N, *SHAPE, generator=g).unbind()
    first = rate_latents(session, policy, z_0, SamplingSettings(), z_T)
    again = rate_latents(session, policy, z_0, SamplingSettings(), z_T)
    assert torch.equal(first.z_0, z_0.half().float())
    assert torch.equal(first.z_0, again.z_0)
    assert torch.equal(first.z_T, again.z_T)
    file = load_file(session.round(1).folder / "rollout.safetensors")
    assert (file["z_0"].dtype, file["z_T"].dtype) == (torch.float16, torch.float16)


# -- what is learned --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("flow", [False, True])
def test_each_step_is_one_of_the_policy_that_drew(flow: bool) -> None:
    """``x_next = mu + s noise`` from the state as it was kept, with the noise that was drawn, to the rounding."""
    policy = ToyPolicy(flow=flow)
    (lora, little), whole = drawn(policy), rollout_of(policy)[1]
    found = policy.run(lambda actor: scored_steps(actor, policy, little, 4).rollout, lora=lora, rows=4, grad=True)
    t = Transitions.of(whole.sigmas, 1.0, flow)

    def noise(rollout: Rollout) -> Tensor:
        x, x0_hat, x_next, step = (
            getattr(rollout, name).flatten(0, 1) for name in ("x", "x0_hat", "x_next", "steps")
        )  # fmt: skip
        return (x_next - t.mean(x, x0_hat, step)) / t.s[step][:, None, None, None]

    torch.testing.assert_close(noise(found), noise(whole), rtol=0, atol=2e-3)
    torch.testing.assert_close(found.log_prob, whole.log_prob, rtol=0, atol=2e-6)
    step = (whole.x.amax((-2, -1)) - whole.x.amin((-2, -1)))[..., None, None] / 255
    assert 0.4 < float(((found.x - whole.x).abs() / step).max()) <= 0.501
    assert not found.x.requires_grad


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("settings", RECORDED, ids=lambda s: type(s).__name__)
def test_a_round_from_the_disk_teaches_what_one_from_memory_does(tmp_path: Path, settings: OptimizerSettings) -> None:
    policy = ToyPolicy()
    lora, little = drawn(policy)
    write_rollout(tmp_path / "rollout.safetensors", little)
    labels: dict[int, Any] = {p: "good" if p < N // 2 else "bad" for p in range(N)}
    reward = Reward(torch.linspace(1, 0, N), Feedback(N, labels, 0), score=lambda latents: latents.mean((1, 2, 3)))

    def learned(rollout: Rollout) -> tuple[dict[str, Tensor], dict[str, Any]]:
        state, metrics = RULES[type(settings)](policy, lora, rollout, reward, settings, seed=3)
        return state.weights, metrics

    (ours, metrics), (theirs, _) = learned(little), learned(read_rollout(tmp_path / "rollout.safetensors"))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert metrics.get("ratio_error", 0.0) <= 1e-6
    # and what float32 would have taught, but for the rounding: the seed of the update is not that of the noise
    exact, _ = learned(rollout_of(policy)[1])
    moved, due = (torch.cat([(one[k] - lora.weights[k]).flatten() for k in ours]) for one in (ours, exact))
    assert float(F.cosine_similarity(moved, due, dim=0)) > 0.98


@pytest.mark.usefixtures("all_large")
def test_fewer_rows_teach_the_same() -> None:
    policy = ToyPolicy()
    lora, little = drawn(policy)
    reward = Reward(torch.linspace(1, 0, N), Feedback(N))
    one, two = (
        RULES[DDPOSettings](policy, lora, little, reward, DDPOSettings(lr=1e-2, micro_batch=rows), seed=0)
        for rows in (4, 2)
    )
    assert all(torch.allclose(one[0].weights[key], two[0].weights[key], atol=1e-6) for key in one[0].weights)
    assert two[1]["ratio_error"] <= 1e-6


@pytest.mark.usefixtures("all_large")
def test_progress_is_told_while_the_steps_are_computed_again_so_that_a_person_can_stop_it() -> None:
    policy, seen = ToyPolicy(), []
    lora, little = drawn(policy)

    def stop(done: int, total: int, preview: object) -> None:
        seen.append((done, total))
        raise InterruptedError

    with pytest.raises(InterruptedError):
        RULES[DDPOSettings](policy, lora, little, Reward(torch.linspace(1, 0, N), Feedback(N)), DDPOSettings(), seed=0,
                            progress=stop)  # fmt: skip
    assert seen == [(4, 5 * N)]


@pytest.mark.usefixtures("all_large")
def test_a_session_goes_on_from_the_disk_as_it_would_have(tmp_path: Path) -> None:
    """Every round from memory, or every step by another program that has the disk alone."""
    policy = ToyPolicy()
    one, two = (Store(tmp_path / name, tmp_path / f"{name} loras") for name in "ab")
    session = one.open("rose", SessionSettings(seed=7))
    play(session, policy, 3)
    for _ in range(3):
        begin(opened(two), policy)
        again = opened(two)
        kept = kept_rollout(again)
        assert kept is not None
        finish(again, policy, kept)
    assert same_state(session.state(), opened(two).state())
    assert isinstance(embedding.build(session.state().embedding, SHAPE), embedding.CompactEmbedding)


# -- what stays as it was ---------------------------------------------------------------------------------------------


def test_latents_of_sd15_are_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compact.is_large((4, 64, 65))
    assert not compact.is_large((4, 64, 64))
    monkeypatch.setattr(compact, "LARGE", 4 * 8 * 8)
    policy = ToyPolicy()
    whole, (_, ours) = rollout_of(policy)[1], drawn(policy)
    assert not ours.compact
    for name in ("z_T", "z_0", "x", "x_next", "x0_hat", "log_prob"):
        assert torch.equal(getattr(ours, name), getattr(whole, name)), name


def test_a_session_that_was_begun_whole_goes_on_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of before say nothing of it in session.json: rounds and embedding stay as they began, bit for bit."""
    ends = []
    for large in (4 * 8 * 8, 0):
        monkeypatch.setattr(compact, "LARGE", large)
        store = Store(tmp_path / f"{large}", tmp_path / f"{large} loras")
        store.open("rose", SessionSettings(seed=7))
        path = store.root / "rose" / "session.json"
        data = read_record(path)
        assert data.pop("compact") is True
        write_record(path, data)
        session = opened(store)
        play(session, ToyPolicy(), 2)
        assert "compact" not in json.loads(path.read_text())
        ends.append(session.state())
    assert same_state(*ends)
    assert type(embedding.build(ends[1].embedding, SHAPE)) is embedding.Embedding


@pytest.mark.usefixtures("all_large")
def test_a_compact_round_is_saved_with_the_noise_of_its_best(session: Session) -> None:
    policy = ToyPolicy()
    rollout = begin(session, policy)
    save_round(session)
    best = session.state().best
    assert best is not None
    assert torch.equal(best.z_T, rollout.z_T[best.picture])
    with pytest.raises(HeroError, match="is at round 2"):
        finish(session, policy, rollout)
