# SPDX-License-Identifier: Apache-2.0
"""Rounds on disk: what is kept, what comes back, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from rounds import EMBEDDING, SAMPLING, N, begin, finish, pictures_of, play, same_state
from safetensors import safe_open
from safetensors.torch import load_file
from toy import SHAPE, ToyPolicy

from hero_core import embedding, loop, preference
from hero_core.embedding import RatedLatents, build, embed, fresh_embedding, plane
from hero_core.errors import HeroError, NotFound, StaleRevision
from hero_core.feedback import Feedback
from hero_core.loop import learn_reward, next_mixture, sample_round, save_round, show_round, update_lora
from hero_core.lora import TARGETS, LoRAConfig, targets
from hero_core.mixture import MixtureSettings
from hero_core.reward import RewardMode
from hero_core.rollout import scorable_steps
from hero_core.store import Session, SessionSettings, Store
from hero_core.update.common import OptimizerSettings
from hero_core.update.ddpo import DDPOSettings
from hero_core.update.nft import NFTSettings
from hero_core.update.score_action import ScoreActionSettings

CRITIC = ScoreActionSettings(replay=1, kl_coef=0.1, kl_target=1e-6, critic_steps=5)


@pytest.mark.parametrize(("stop_after", "update"), [(1, DDPOSettings()), (2, DDPOSettings()), (1, CRITIC), (2, CRITIC)])
def test_a_resumed_session_equals_an_uninterrupted_one(
    tmp_path: Path, stop_after: int, update: OptimizerSettings
) -> None:
    policy = ToyPolicy()
    whole = Store(tmp_path / "a", tmp_path / "la").open("x", SessionSettings(seed=3))
    play(whole, policy, 3, update)
    play(Store(tmp_path / "b", tmp_path / "lb").open("x", SessionSettings(seed=3)), policy, stop_after, update)
    resumed = Store(tmp_path / "b", tmp_path / "lb").open("x", SessionSettings(seed=3))
    assert resumed.saved_round == stop_after
    play(resumed, policy, 3 - stop_after, update)
    assert bool(whole.state().lora.memory) == (update is CRITIC)  # type: ignore[union-attr]
    assert same_state(whole.state(), resumed.state())
    files = [load_file(tmp_path / folder / "x_r0003.safetensors") for folder in ("la", "lb")]
    assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])


def test_a_saved_state_reads_back_to_the_bit(session: Session, policy: ToyPolicy) -> None:
    play(session, policy, 2)
    written = session.state()
    read = Store(session.store.root, session.store.lora_dir).session("toy").state()
    assert same_state(written, read)
    assert (read.lora.config, read.embedding.rounds, read.mixture.settings) == (LoRAConfig(), 2, MixtureSettings())  # type: ignore[union-attr]
    assert (read.best.round, read.best.picture) == (written.best.round, written.best.picture)  # type: ignore[union-attr]


def test_one_seed_one_result_and_another_another(tmp_path: Path) -> None:
    policy, drawn = ToyPolicy(), []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        session = Store(tmp_path / folder, tmp_path / folder).open("x", SessionSettings(seed=seed))
        drawn.append(sample_round(session, policy, N, SAMPLING).z_0)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2])


def test_the_open_round_comes_back_with_its_marks(session: Session, policy: ToyPolicy) -> None:
    first = sample_round(session, policy, N, SAMPLING)
    shown = show_round(session, first, pictures_of(first), "wait")
    shown.put_marks(0, Feedback(N, {2: "good", 5: "bad"}))
    again = Store(session.store.root, session.store.lora_dir).session("toy")
    policy.calls.clear()
    back = sample_round(again, policy, N, SAMPLING)
    assert policy.calls == []
    assert torch.equal(back.z_0, first.z_0)
    assert torch.equal(back.log_prob, first.log_prob)
    marks = again.round(1).marks()
    assert (marks.rev, marks.feedback.labels, marks.submitted) == (1, {2: "good", 5: "bad"}, False)


def test_a_damaged_rollout_is_drawn_again_to_the_same_bits(session: Session, policy: ToyPolicy) -> None:
    first = sample_round(session, policy, N, SAMPLING)
    session.round(1).put_marks(0, Feedback(N, {2: "good"}))
    path = session.round(1).folder / "rollout.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    back = sample_round(session, policy, N, SAMPLING)
    assert torch.equal(back.x, first.x)
    assert session.round(1).marks().feedback.labels == {2: "good"}
    assert path.with_name("rollout.safetensors.damaged").exists()


def test_new_settings_redraw_an_unrated_round_and_keep_a_rated_one(session: Session, policy: ToyPolicy) -> None:
    first = sample_round(session, policy, N, SAMPLING)
    other = replace(SAMPLING, steps=14)
    redrawn = sample_round(session, policy, N, other)
    assert not torch.allclose(redrawn.z_0, first.z_0)
    session.round(1).put_marks(0, Feedback(N, {0: "good"}))
    assert torch.equal(sample_round(session, policy, N, SAMPLING).z_0, redrawn.z_0)


FEW = replace(SAMPLING, steps=3, cfg=1.0)
"""No step of these can be scored."""


def test_a_round_without_a_step_to_score_is_refused_before_it_is_drawn_where_an_update_needs_one(
    session: Session, policy: ToyPolicy
) -> None:
    with pytest.raises(HeroError, match="None of the 3 steps can be scored"):
        sample_round(session, policy, N, FEW)
    assert policy.calls == []
    assert session.fingerprint is None, "it leaves no trace"


def test_where_no_update_needs_recorded_steps_the_round_is_drawn_learned_from_and_saved_without_them(
    session: Session, policy: ToyPolicy
) -> None:
    told: list[str] = []
    rollout = sample_round(session, policy, N, FEW, tell=told.append, scored=False)
    assert (told, rollout.recorded, tuple(rollout.x.shape)) == ([], 0, (N, 0, *SHAPE))
    assert rollout.z_0.std() > 0
    again = Store(session.store.root, session.store.lora_dir).session("toy")
    back = sample_round(again, policy, N, FEW, scored=False)
    assert torch.equal(back.z_0, rollout.z_0)
    shown = show_round(again, back, pictures_of(back), "standalone")
    with pytest.raises(HeroError, match="None of the 3 steps can be scored"):
        sample_round(again, policy, N, FEW)  # another update was wired before the first mark
    shown.put_marks(0, Feedback(N, {0: "good", 1: "bad"}, 0))
    shown.submit()
    marked = sample_round(again, policy, N, FEW)
    reward = preference.reward_of_marks(marked, shown.marks().feedback)
    with pytest.raises(HeroError, match=r"No steps of these .* wire Forward-Process LoRA Update"):
        update_lora(again, policy, marked, reward, DDPOSettings())
    learned = update_lora(again, policy, marked, reward, NFTSettings(steps=2, batch=2))
    assert learned.metrics["optimizer_steps"] == 2
    assert save_round(again, reward, learned).round == 1
    assert again.open_round == 2


def test_a_round_of_which_fewer_steps_can_be_scored_says_how_many_are_recorded(session: Session) -> None:
    told: list[str] = []
    settings = replace(SAMPLING, steps=5, cfg=1.0)
    rollout = sample_round(session, ToyPolicy(flow=True), N, settings, tell=told.append)
    count = scorable_steps(ToyPolicy(flow=True), settings)
    assert told == [f"{count} of the 5 steps can be scored: the round records {count} of each picture, not 5."]
    assert rollout.steps.shape == (N, count)


def test_another_prompt_is_refused_before_any_work(session: Session, policy: ToyPolicy) -> None:
    sample_round(session, policy, N, SAMPLING)
    other = ToyPolicy(prompt="a train")
    with pytest.raises(HeroError, match="prompt was 'a toy' and is now 'a train'"):
        sample_round(session, other, N, SAMPLING)
    assert other.calls == []


def test_other_session_settings_are_refused(store: Store) -> None:
    store.open("x", SessionSettings(seed=1))
    with pytest.raises(HeroError, match=r"begun with seed 1, LoRA rank 4, .* asks for seed 1, LoRA rank 8"):
        store.open("x", SessionSettings(seed=1, lora=LoRAConfig(rank=8)))


def test_a_session_keeps_the_targets_of_its_first_day_whatever_a_later_version_would_choose(store: Store) -> None:
    of_then = r"(.*\.)?attn\d*\.(to_q|to_k|to_v|to_out\.0)"
    store.open("x", SessionSettings(seed=1, lora=LoRAConfig(targets=of_then)))
    again = Store(store.root, store.lora_dir).open("x", SessionSettings(seed=1))
    assert again.settings.lora == LoRAConfig(targets=of_then) != LoRAConfig()


@pytest.mark.parametrize("mine", [*TARGETS, ".*to_q"])
@pytest.mark.parametrize("asked", [*TARGETS, ".*to_q"])
def test_a_session_opens_with_the_targets_it_was_begun_with_and_says_which_these_are(
    store: Store, mine: str, asked: str
) -> None:
    def settings(choice: str) -> SessionSettings:
        return SessionSettings(seed=1, lora=LoRAConfig(targets=targets(choice)))

    store.open("x", settings(mine))
    again = Store(store.root, store.lora_dir)
    if mine == asked:
        assert again.open("x", settings(asked)).settings.lora.targets == targets(mine)
        return
    with pytest.raises(HeroError) as refused:
        again.open("x", settings(asked))
    assert f"begun with seed 1, LoRA rank 4, alpha 4 and targets {mine!r}; this asks for" in str(refused.value)
    assert f"targets {asked!r}. Set these back, or choose another session name" in str(refused.value)


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65, "ü", "a.b", "con/../x", "CON", "nul", "Com1"])
def test_bad_session_names_are_refused(store: Store, name: str) -> None:
    with pytest.raises(HeroError, match="is no session name"):
        store.open(name, SessionSettings())
    assert not list(store.root.parent.glob("**/session.json"))


def test_the_best_is_indexed_by_picture(session: Session, policy: ToyPolicy) -> None:
    """The public code uses a position among the candidates as a batch index from the second round on."""
    play(session, policy)
    rollout = begin(session, policy)
    feedback = loop.feedback_of(session, rollout)
    assert feedback is not None
    assert feedback.good.index(feedback.best) != feedback.best  # type: ignore[arg-type]
    reward = learn_reward(session, rollout, feedback, EMBEDDING)
    assert int(reward.rewards.argmax()) == feedback.best
    mixture = next_mixture(session, rollout, feedback, MixtureSettings())
    assert torch.equal(mixture.best, rollout.z_T[feedback.best])  # type: ignore[union-attr]
    finish(session, policy, rollout)
    assert torch.equal(session.state().best.z_0, rollout.z_0[feedback.best])  # type: ignore[union-attr]


def test_the_old_best_can_be_kept(session: Session, policy: ToyPolicy) -> None:
    play(session, policy)
    old = session.state().best
    rollout = begin(session, policy, best="keep")
    finish(session, policy, rollout)
    new = session.state()
    assert torch.equal(new.best.z_0, old.z_0)  # type: ignore[union-attr]
    assert new.best.round == 1  # type: ignore[union-attr]
    assert torch.equal(new.mixture.best, old.z_T)  # type: ignore[union-attr]
    assert session.round(3).has_old_best
    assert session.round(2).picture("best") == session.round(1).picture(old.picture)  # type: ignore[union-attr]


def test_no_good_changes_nothing_but_the_round(session: Session, policy: ToyPolicy) -> None:
    play(session, policy)
    before = session.state()
    rollout = begin(session, policy, Feedback(N, {0: "bad", 1: "bad"}))
    feedback = loop.feedback_of(session, rollout)
    assert feedback is not None
    reward = learn_reward(session, rollout, feedback, EMBEDDING)
    assert reward.skip is not None
    assert "No picture of this round is good" in reward.skip
    saved = finish(session, policy, rollout)
    assert same_state(before, session.state())
    assert saved.metrics["skip"] == reward.skip
    assert session.saved_round == 2


def test_no_good_in_round_one_draws_fresh_noise_again(session: Session, policy: ToyPolicy) -> None:
    first = begin(session, policy, Feedback(N, {0: "bad"}))
    finish(session, policy, first)
    second = sample_round(session, policy, N, SAMPLING)
    assert second.source.tolist() == [-1] * N
    assert not torch.allclose(second.z_T, first.z_T)
    assert session.state().best is None


def test_all_good_takes_no_triplet_step(session: Session, policy: ToyPolicy) -> None:
    rollout = begin(session, policy, good=1.0)
    feedback = loop.feedback_of(session, rollout)
    assert feedback is not None
    reward = learn_reward(session, rollout, feedback, EMBEDDING)
    assert reward.skip is not None
    assert "mark some pictures bad" in reward.skip
    finish(session, policy, rollout)
    rollout = begin(session, policy)
    finish(session, policy, rollout)
    before = session.state().embedding
    rollout = begin(session, policy, good=1.0)
    feedback = loop.feedback_of(session, rollout)
    assert feedback is not None
    reward = learn_reward(session, rollout, feedback, EMBEDDING)
    assert reward.embedding is before
    assert reward.skip is None


def test_only_the_best_is_good(session: Session, policy: ToyPolicy) -> None:
    rollout = begin(session, policy, good=0.1)
    feedback = loop.feedback_of(session, rollout)
    assert feedback is not None
    assert feedback.good == [feedback.best]
    reward = learn_reward(session, rollout, feedback, EMBEDDING)
    assert reward.skip is None
    mixture = next_mixture(session, rollout, feedback, MixtureSettings())
    assert mixture is not None
    assert torch.equal(mixture.goods, rollout.z_T[[feedback.best]])
    assert finish(session, policy, rollout).lora_path is not None


@pytest.mark.parametrize("mode", ["goods", "projected", "binary", "latent"])
def test_every_reward_mode_prefers_the_goods(session: Session, policy: ToyPolicy, mode: str) -> None:
    rollout = begin(session, policy)
    feedback = loop.feedback_of(session, rollout)
    assert feedback is not None
    reward = learn_reward(session, rollout, feedback, EMBEDDING, mode)  # type: ignore[arg-type]
    assert float(reward.rewards[feedback.good].mean()) > float(reward.rewards[feedback.bad].mean())
    with pytest.raises(HeroError, match="'nice'"):
        learn_reward(session, rollout, feedback, EMBEDDING, "nice")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["best", "projected"])
def test_rewards_and_map_are_of_the_features_that_the_mode_names(
    session: Session, policy: ToyPolicy, mode: RewardMode
) -> None:
    rollout = begin(session, policy)
    feedback = loop.feedback_of(session, rollout)
    assert feedback is not None
    reward = learn_reward(session, rollout, feedback, EMBEDDING, mode)
    network = build(reward.embedding, SHAPE)  # type: ignore[arg-type]
    with torch.no_grad():
        features = network.E(rollout.z_0)
        features = network.g(features) if mode == "projected" else features
    expected = (1 + torch.cosine_similarity(features, features[feedback.best], dim=1)) / 2  # type: ignore[index]
    torch.testing.assert_close(reward.rewards, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(reward.score(rollout.z_0), expected, rtol=0, atol=1e-6)  # type: ignore[misc]
    torch.testing.assert_close(reward.map, plane(features))


def test_the_best_is_not_among_its_own_positives(
    session: Session, policy: ToyPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[RatedLatents] = []
    monkeypatch.setattr(embedding, "train", lambda state, marks, *a, **k: (seen.append(marks), (state, {}))[1])
    rollout = begin(session, policy)
    feedback = loop.feedback_of(session, rollout)
    assert feedback is not None
    learn_reward(session, rollout, feedback, EMBEDDING)
    others = [picture for picture in feedback.good if picture != feedback.best]
    assert len(others) == 3
    assert torch.equal(seen[0].best, rollout.z_0[feedback.best])  # type: ignore[index]
    assert torch.equal(seen[0].goods, rollout.z_0[others])
    assert torch.equal(seen[0].bads, rollout.z_0[feedback.bad])


def test_the_heldout_auc_is_that_of_the_embedding_before_it_learned(session: Session, policy: ToyPolicy) -> None:
    found = []
    for number in range(3):
        rollout = begin(session, policy)
        feedback = loop.feedback_of(session, rollout)
        before = session.state().embedding
        assert feedback is not None
        reward = learn_reward(session, rollout, feedback, EMBEDDING)
        assert ("heldout_auc" in reward.metrics) == (number > 0)
        if before is not None:
            features = embed(before, rollout.z_0)
            ranks = torch.cosine_similarity(features, features[feedback.best], dim=1)  # type: ignore[index]
            goods = [picture for picture in feedback.good if picture != feedback.best]
            pairs = [float(ranks[good] > ranks[bad]) for good in goods for bad in feedback.bad]
            assert reward.metrics["heldout_auc"] == pytest.approx(sum(pairs) / len(pairs))
            found.append(reward.metrics["heldout_auc"])
        save_round(session, reward)
    assert len(set(found)) == 2, "two rounds that no one figure fits"


def test_left_out_parts_are_ablations(session: Session, policy: ToyPolicy) -> None:
    rollout = begin(session, policy)
    feedback = loop.feedback_of(session, rollout)
    assert feedback is not None
    mixture = next_mixture(session, rollout, feedback, MixtureSettings())
    assert save_round(session, mixture=mixture).lora_path is None
    assert session.state().lora is None
    assert sample_round(session, policy, N, SAMPLING).source.max() >= 0
    rollout = begin(session, policy)
    reward = learn_reward(session, rollout, loop.feedback_of(session, rollout), EMBEDDING)  # type: ignore[arg-type]
    save_round(session, reward, update_lora(session, policy, rollout, reward, DDPOSettings()))
    assert session.state().lora is not None
    assert sample_round(session, policy, N, SAMPLING).source.tolist() == [-1] * N


def test_an_unrated_round_cannot_be_saved(session: Session, policy: ToyPolicy) -> None:
    sample_round(session, policy, N, SAMPLING)
    with pytest.raises(HeroError, match="Round 1 of session 'toy' is not rated yet"):
        save_round(session)
    assert session.saved_round == 0


def test_a_rollout_of_a_saved_round_is_refused(session: Session, policy: ToyPolicy) -> None:
    rollout = begin(session, policy)
    finish(session, policy, rollout)
    with pytest.raises(HeroError, match="rollout is of round 1 and session 'toy' is at round 2"):
        loop.feedback_of(session, rollout)


def test_the_lora_file_is_what_others_read(session: Session, policy: ToyPolicy) -> None:
    path = finish(session, policy, begin(session, policy)).lora_path
    assert path is not None
    assert path.name == "toy_r0001.safetensors"
    with safe_open(path, framework="pt") as file:
        keys, metadata = set(file.keys()), file.metadata()
        down = file.get_tensor("lora_unet_attn1_to_q.lora_down.weight")
    assert {"lora_unet_attn1_to_q.lora_up.weight", "lora_unet_attn1_to_q.alpha"} <= keys
    assert torch.equal(down, session.state().lora.weights["attn1.to_q.lora_A.weight"])  # type: ignore[union-attr]
    assert metadata["hero_prompt"] == "a toy"
    assert metadata["hero_marks"] == "8"
    assert metadata["ss_network_dim"] == "4"


def test_old_states_are_pruned_and_old_rollouts_slimmed(session: Session, policy: ToyPolicy) -> None:
    play(session, policy, 4)
    assert sorted(p.name for p in (session.folder / "state").iterdir()) == ["0003", "0004"]
    with safe_open(session.folder / "rounds/0002/rollout.safetensors", framework="pt") as file:
        assert set(file.keys()) == {"z_T", "z_0", "source", "sigmas"}
    assert [entry["round"] for entry in session.history] == [1, 2, 3, 4]
    assert len(list(session.store.lora_dir.glob("*.safetensors"))) == 4


# -- marks -----------------------------------------------------------------------------------------------------------


def test_marks_count_revisions_and_stale_ones_are_refused(session: Session, policy: ToyPolicy) -> None:
    sample_round(session, policy, N, SAMPLING)
    round = session.round(1)
    assert round.put_marks(0, Feedback(N, {0: "good"})).rev == 1
    with pytest.raises(StaleRevision, match="made on revision 0 and round 1 is at 1") as caught:
        round.put_marks(0, Feedback(N, {1: "bad"}))
    assert caught.value.current.feedback.labels == {0: "good"}
    with pytest.raises(StaleRevision, match="made on revision 2 and round 1 is at 1"):
        round.put_marks(2, Feedback(N, {1: "bad"}))  # of a store that was put back to an older copy
    assert round.marks().feedback.labels == {0: "good"}


def test_submitting_twice_is_submitting_once(session: Session, policy: ToyPolicy) -> None:
    sample_round(session, policy, N, SAMPLING)
    round = session.round(1)
    with pytest.raises(HeroError, match="Nothing is rated yet"):
        round.submit()
    round.put_marks(0, Feedback(N, {0: "good"}, best=0))
    for other in (0, 2):
        with pytest.raises(StaleRevision):
            round.submit(other)
    first = round.submit(1)
    assert round.submit(1) == first
    with pytest.raises(HeroError, match="is submitted"):
        round.put_marks(first.rev, Feedback(N, {1: "bad"}))
    assert round.status == "rated"


def test_rounds_are_found_by_status(session: Session, policy: ToyPolicy) -> None:
    store = session.store
    play(session, policy)
    rollout = sample_round(session, policy, N, SAMPLING)
    assert store.rounds("pending") == []
    show_round(session, rollout, pictures_of(rollout), "resume")
    assert [round.id for round in store.rounds("pending")] == ["toy.0002"]
    assert [round.id for round in store.rounds("saved")] == ["toy.0001"]
    shown = store.round("toy.0002").to_json()
    assert {k: shown[k] for k in ("round", "status", "mode", "n", "width", "rev", "has_old_best")} == {
        "round": 2, "status": "sampled", "mode": "resume", "n": N, "width": 32, "rev": 0, "has_old_best": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    "round_id",
    ["toy.0009", "toy.1", "toy", "../toy.0001", "toy.0001/..", "nobody.0001", "toy.\u0660\u0660\u0660\u0661"],
)
def test_unknown_rounds_are_not_found(session: Session, policy: ToyPolicy, round_id: str) -> None:
    sample_round(session, policy, N, SAMPLING)
    with pytest.raises(NotFound):
        session.store.round(round_id)


def test_pictures_must_be_those_of_the_round(session: Session, policy: ToyPolicy) -> None:
    rollout = sample_round(session, policy, N, SAMPLING)
    with pytest.raises(HeroError, match="Round 1 has 8 pictures and 3 images arrived"):
        show_round(session, rollout, torch.rand(3, 32, 32, 3), "wait")
    shown = show_round(session, rollout, pictures_of(rollout), "wait")
    for number in (-1, 8):
        with pytest.raises(NotFound):
            shown.picture(number)


def test_a_revision_changes_with_a_saved_round_or_a_removed_folder_alone(store: Store, policy: ToyPolicy) -> None:
    seen = [store.revision("x")]
    session = store.open("x", SessionSettings())
    rollout = begin(session, policy)
    seen.append(store.revision("x"))
    finish(session, policy, rollout)
    seen.append(store.revision("x"))
    shutil.rmtree(session.folder)
    seen.append(store.revision("x"))
    store.open("x", SessionSettings())
    seen.append(store.revision("x"))
    assert [a == b for a, b in pairwise(seen)] == [True, False, False, True]
    assert seen[0] != seen[4]


def test_newer_and_damaged_sessions_are_named(store: Store) -> None:
    store.open("x", SessionSettings())
    shutil.rmtree(store.root / "x" / "state")  # where a copy of session.json lies
    path = store.root / "x" / "session.json"
    path.write_text(json.dumps({"format": 99}))
    fresh = Store(store.root, store.lora_dir)
    with pytest.raises(HeroError, match=r"x.session\.json has format 99, of a newer version"):
        fresh.session("x")
    path.write_text("{")
    with pytest.raises(HeroError, match=r"x.session\.json cannot be read"):
        fresh.session("x")
    assert fresh.sessions() == []
    assert path.read_text() == "{"


def test_latents_too_small_to_embed_are_refused() -> None:
    assert SHAPE == (4, 8, 8)
    with pytest.raises(HeroError, match="cannot be embedded"):
        fresh_embedding((4, 4, 8), 0)
