# SPDX-License-Identifier: Apache-2.0
"""Sampling and the DDPO update on a policy small enough for exact answers."""

import re
from dataclasses import replace

import pytest
import torch
from rounds import SETTINGS, rewards, rollout_of
from toy import SHAPE, ToyPolicy

from hero_core import seeding
from hero_core.errors import HeroError
from hero_core.feedback import Feedback
from hero_core.lora import LoRA, LoRAConfig
from hero_core.reward import Reward
from hero_core.rollout import SCORED_PARTS, SamplingSettings, chunks, sample, scorable_steps
from hero_core.transition import Transitions
from hero_core.update.ddpo import DDPOSettings, update
from hero_core.update.policy_gradient import Objective, clipped


def test_chunks_repeat_the_last_row_and_count_the_rest() -> None:
    assert [(index.tolist(), used) for index, used in chunks(5, 3)] == [([0, 1, 2], 3), ([3, 4, 4], 2)]


def test_every_call_has_the_same_rows(policy: ToyPolicy) -> None:
    lora, rollout = rollout_of(policy, n=6)
    update(policy, lora, rollout, rewards(6), DDPOSettings(), seed=0)
    assert {rows for rows, _ in policy.calls} == {4}


def test_pictures_do_not_depend_on_the_micro_batch(policy: ToyPolicy) -> None:
    whole = rollout_of(policy)[1]
    small = rollout_of(policy, settings=replace(SETTINGS, micro_batch=3))[1]
    torch.testing.assert_close(whole.z_0, small.z_0, rtol=0, atol=1e-5)
    assert torch.equal(whole.steps, small.steps)


def test_recorded_transitions_lie_on_the_trajectory(policy: ToyPolicy) -> None:
    _, rollout = rollout_of(policy)
    t = Transitions.of(rollout.sigmas, 1.0, policy.flow)
    scorable = set(t.scorable().tolist())
    assert rollout.steps.shape == (8, 5)
    for row in rollout.steps.tolist():
        assert row == sorted(set(row))
        assert set(row) <= scorable
    # where two neighbouring steps are both scored, the end of one is the start of the next
    pairs = [(p, k) for p in range(8) for k in range(4) if rollout.steps[p, k + 1] == rollout.steps[p, k] + 1]
    assert pairs
    assert all(torch.equal(rollout.x_next[p, k], rollout.x[p, k + 1]) for p, k in pairs)


def test_steps_are_scored_from_the_part_that_is_named(policy: ToyPolicy) -> None:
    found = {}
    for part in SCORED_PARTS:
        rollout = rollout_of(policy, n=32, settings=replace(SETTINGS, scored_part=part))[1]
        assert rollout.steps.shape == (32, 5)
        found[part] = set(rollout.steps.flatten().tolist())
    assert found["all"] == set(range(19)), "the last step adds no noise"
    assert found == {**found, "early": set(range(7)), "middle": set(range(7, 13)), "late": set(range(13, 19))}
    with pytest.raises(HeroError, match="scored_part is 'begin'; it is one of all, early, middle, late"):
        SamplingSettings(scored_part="begin")  # type: ignore[arg-type]


@pytest.mark.parametrize("flow", [False, True])
def test_ratio_is_one_before_the_first_step(flow: bool) -> None:
    policy = ToyPolicy(flow=flow)
    lora, rollout = rollout_of(policy)
    _, metrics = update(policy, lora, rollout, rewards(), DDPOSettings(), seed=0)
    assert metrics["ratio_error"] < 1e-6


def test_a_policy_that_computes_otherwise_is_refused(policy: ToyPolicy) -> None:
    lora, rollout = rollout_of(policy)
    policy.fault = 1e-3
    with pytest.raises(HeroError, match=r"picture \d, step \d+, a probability ratio of"):
        update(policy, lora, rollout, rewards(), DDPOSettings(), seed=0)


def test_the_gradient_is_the_policy_gradient(policy: ToyPolicy) -> None:
    """Against finite differences of mean(-A * log_prob), which has the PPO objective's gradient at ratio 1."""
    lora, rollout = rollout_of(policy)
    settings = DDPOSettings(batch=8, lr=1e-12, weight_decay=0.0, max_grad_norm=1e9)
    r = rewards().rewards
    gain = (r - r.mean()) / r.std()
    t = Transitions.of(rollout.sigmas, 1.0, policy.flow)

    def objective(weights: dict[str, torch.Tensor]) -> float:
        def body(actor):  # type: ignore[no-untyped-def]
            total = 0.0
            for k in range(5):
                for half in (slice(0, 4), slice(4, 8)):
                    step = rollout.steps[half, k]
                    mu = t.mean(rollout.x[half, k], actor.denoise(rollout.x[half, k], t.sigmas[step]), step)
                    total += float((-gain[half] * t.log_prob(rollout.x_next[half, k], mu, step)).double().sum())
            return total / 40

        return policy.run(body, lora=replace(lora, weights=weights), rows=4, grad=False)

    _, metrics = update(policy, lora, rollout, rewards(), settings, seed=0)
    squares = 0.0
    for k, weight in lora.weights.items():
        if not k.endswith("lora_B.weight"):
            continue  # B = 0, so A has no gradient
        for i in range(weight.numel()):
            up, down = weight.clone(), weight.clone()
            up.view(-1)[i] += 1e-2
            down.view(-1)[i] -= 1e-2
            slope = (objective({**lora.weights, k: up}) - objective({**lora.weights, k: down})) / 2e-2
            squares += slope**2
    assert metrics["grad_norm"] == pytest.approx(squares**0.5, rel=0.02)


def test_an_update_raises_the_probability_of_what_was_rewarded(policy: ToyPolicy) -> None:
    lora, rollout = rollout_of(policy, n=16)
    r = rewards(16).rewards
    gain = ((r - r.mean()) / r.std())[:, None]
    after, metrics = update(policy, lora, rollout, rewards(16), DDPOSettings(lr=1e-3, clip=0.1), seed=0)
    t = Transitions.of(rollout.sigmas, 1.0, policy.flow)

    def log_prob(actor):  # type: ignore[no-untyped-def]
        found = torch.zeros(16, 5)
        for k in range(5):
            for index, _ in chunks(16, 4):
                x, x_next, step = rollout.x[index, k], rollout.x_next[index, k], rollout.steps[index, k]
                mu = t.mean(x, actor.denoise(x, t.sigmas[step]), step)
                found[index, k] = t.log_prob(x_next, mu, step)
        return found

    new = policy.run(log_prob, lora=after, rows=4, grad=False)
    assert float((gain * (new - rollout.log_prob)).mean()) > 1e-6
    assert metrics["optimizer_steps"] == 2
    assert metrics["kl_to_base"] > 0


def test_the_statistics_are_those_of_the_ratios(policy: ToyPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six pictures in calls of 4 rows: what fills the last call of each epoch up does not count."""
    ratios, losses = [], []

    def spying(gains: torch.Tensor, clip: float) -> Objective:
        def objective(index: torch.Tensor, mu: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
            gain, r = gains[index[:, 0], 0], ratio.detach()
            ratios.append(r)
            losses.append(-torch.minimum(gain * r, gain * r.clamp(1 - clip, 1 + clip)))
            return clipped(gains, clip)(index, mu, ratio)

        return objective

    monkeypatch.setattr("hero_core.update.ddpo.clipped", spying)
    lora, rollout = rollout_of(policy, n=6)
    _, metrics = update(policy, lora, rollout, rewards(6), DDPOSettings(batch=6, epochs=3, lr=3e-3), seed=0)
    r, loss = (torch.stack(seen).view(3, 32)[:, :30].double() for seen in (ratios, losses))
    outside = float(((r - 1).abs() > 1e-4).double().mean())
    assert 0 < outside < 1
    assert metrics["clip_fraction"] == pytest.approx(outside)
    assert metrics["loss"] == pytest.approx(float(loss.mean()), rel=1e-3)
    distance = float((r - 1 - r.log()).mean())
    assert distance > 1e-9
    assert metrics["kl_to_round_start"] == pytest.approx(distance, rel=0.05), "differences of float32 near 1"


def test_timed_conditioning_gets_one_step_a_call() -> None:
    policy = ToyPolicy(mixed_sigmas=False)
    lora, rollout = rollout_of(policy)
    _, metrics = update(policy, lora, rollout, rewards(), DDPOSettings(), seed=0)
    assert {different for _, different in policy.calls} == {1}
    mixed = ToyPolicy()
    _, same = update(mixed, *rollout_of(mixed), rewards(), DDPOSettings(), seed=0)
    assert metrics["grad_norm"] == pytest.approx(same["grad_norm"], rel=1e-3)


def test_more_steps_than_were_recorded_are_refused(policy: ToyPolicy) -> None:
    lora, rollout = rollout_of(policy)
    with pytest.raises(HeroError, match="asks for 9 scored_steps of each picture and the round records 5"):
        update(policy, lora, rollout, rewards(), DDPOSettings(scored_steps=9), seed=0)


def test_too_few_steps_to_score_are_refused_with_the_number_that_can(policy: ToyPolicy) -> None:
    with pytest.raises(HeroError, match="None of the 3 steps can be scored") as refused:
        scorable_steps(policy, SamplingSettings(steps=3))
    enough = int(re.search(r"set steps to (\d+) or more", str(refused.value)).group(1))
    found = scorable_steps(policy, SamplingSettings(steps=enough))
    assert rollout_of(policy, settings=SamplingSettings(steps=enough))[1].x.shape[1] == min(5, found) > 0
    with pytest.raises(HeroError, match=f"None of the {enough - 1} steps"):
        scorable_steps(policy, SamplingSettings(steps=enough - 1))


def test_a_part_without_a_step_to_score_is_refused_with_its_name(policy: ToyPolicy) -> None:
    most = SamplingSettings(steps=4, scored_part="late")
    with pytest.raises(HeroError, match="steps of the late part can be scored with scheduler 'normal' and eta 1") as no:
        scorable_steps(policy, most)
    assert "Put Forward-Process LoRA Update in its place, which needs none" in str(no.value)


@pytest.mark.parametrize("steps", [4, 8])
def test_of_a_flow_model_every_step_but_the_last_can_be_scored_however_few_there_are(steps: int) -> None:
    """The last one adds no noise; and so 4 steps can be learned from."""
    found = Transitions.of(torch.linspace(1, 0, steps + 1), 1.0, True).scorable()
    assert found.tolist() == list(range(steps - 1))


@pytest.mark.parametrize("wanted", [1, 5])
def test_fewer_recorded_steps_than_the_update_would_take_are_all_taken(wanted: int) -> None:
    policy = ToyPolicy(flow=True)
    few = SamplingSettings(steps=5, cfg=1.0, micro_batch=4)
    lora, rollout = rollout_of(policy, settings=few)
    assert 0 < rollout.steps.shape[1] == scorable_steps(policy, few) < 5
    after, metrics = update(policy, lora, rollout, rewards(), DDPOSettings(batch=8, scored_steps=wanted), seed=0)
    assert metrics["optimizer_steps"] == 1
    assert metrics["ratio_error"] == 0
    assert any(not torch.equal(after.weights[key], lora.weights[key]) for key in lora.weights)


def test_the_base_model_comes_back_after_every_run(policy: ToyPolicy) -> None:
    before = {path: id(module) for path, module in policy.net.named_modules()}
    weights = {k: v.clone() for k, v in policy.net.state_dict().items()}
    lora, rollout = rollout_of(policy)
    update(policy, lora, rollout, rewards(), DDPOSettings(lr=1e-2), seed=0)
    assert {path: id(module) for path, module in policy.net.named_modules()} == before
    assert all(torch.equal(v, weights[k]) for k, v in policy.net.state_dict().items())
    assert not any(module._forward_hooks for module in policy.net.modules())


def test_a_lora_of_another_model_is_refused(policy: ToyPolicy) -> None:
    lora, _ = rollout_of(policy)
    wrong = replace(lora, weights={"elsewhere.lora_A.weight": torch.zeros(4, 4)})
    with pytest.raises(HeroError, match="another kind of checkpoint"):
        policy.run(lambda actor: None, lora=wrong, rows=4, grad=False)


def test_lora_off_is_the_base_model(policy: ToyPolicy) -> None:
    lora, _ = rollout_of(policy)
    trained = replace(lora, weights={k: torch.ones_like(v) for k, v in lora.weights.items()})
    x, sigma = torch.randn(4, *SHAPE), torch.ones(4)

    def body(actor):  # type: ignore[no-untyped-def]
        on = actor.denoise(x, sigma)
        with actor.lora.disabled():
            return on, actor.denoise(x, sigma)

    on, off = policy.run(body, lora=trained, rows=4, grad=False)
    base = policy.run(lambda actor: actor.denoise(x, sigma), lora=lora, rows=4, grad=False)
    assert torch.equal(off, base)
    assert not torch.allclose(on, off)


def test_injecting_needs_a_target(policy: ToyPolicy) -> None:
    with pytest.raises(HeroError, match="No layer of Block matches"):
        LoRA.inject(policy.net, LoRAConfig(targets="nothing"))


def test_the_kl_holds_the_policy_near_the_base_model(policy: ToyPolicy) -> None:
    lora, _ = rollout_of(policy)
    moved = replace(lora, weights={k: v + 0.1 for k, v in lora.weights.items()})
    z_T = seeding.randn(SHAPE, seeding.picture_generators(8, 0, 1, "z_T"))
    rollout = sample(policy, moved, z_T, torch.full((8,), -1), SETTINGS, seed=0, round=1)
    flat = Reward(torch.zeros(8), Feedback(8))  # nothing to prefer: only the KL pulls
    free, _ = update(policy, moved, rollout, flat, DDPOSettings(weight_decay=0.0), seed=0)
    assert all(torch.equal(v, moved.weights[k]) for k, v in free.weights.items())
    for every in (1, 3):
        settings = DDPOSettings(weight_decay=0.0, kl_coef=1.0, lr=3e-3, epochs=4, kl_every=every)
        held, metrics = update(policy, moved, rollout, flat, settings, seed=0)
        assert metrics["kl_to_base"] < 0.9 * kl_of(policy, moved, rollout)
        assert any(not torch.equal(v, moved.weights[k]) for k, v in held.weights.items())


def test_a_kl_measured_now_and_then_weighs_as_much_as_one_measured_always(policy: ToyPolicy) -> None:
    """Where all recorded steps are the same one, every second call tells what every call tells."""
    lora, rollout = rollout_of(policy)
    moved = replace(lora, weights={k: v + 0.1 for k, v in lora.weights.items()})
    z_T = seeding.randn(SHAPE, seeding.picture_generators(8, 0, 1, "z_T"))
    rollout = sample(policy, moved, z_T, torch.full((8,), -1), SETTINGS, seed=0, round=1)
    names = ("steps", "x", "x_next", "x0_hat", "log_prob")
    one = {name: getattr(rollout, name)[:1, :1].expand_as(getattr(rollout, name)).clone() for name in names}
    found = [
        update(policy, moved, replace(rollout, **one), Reward(torch.zeros(8), Feedback(8)),
               DDPOSettings(kl_coef=0.7, kl_every=every), seed=0)[1]
        for every in (1, 2, 5, 10)
    ]  # fmt: skip
    assert found[0]["loss"] == pytest.approx(0.7 * found[0]["kl_to_base"], rel=0.2), "it moved a little since"
    for other in found[1:]:
        assert other["loss"] == pytest.approx(found[0]["loss"], rel=1e-4)
        assert other["grad_norm"] == pytest.approx(found[0]["grad_norm"], rel=1e-4)


def kl_of(policy: ToyPolicy, lora, rollout) -> float:  # type: ignore[no-untyped-def]
    """The KL to the base model, mean over every recorded step."""
    t = Transitions.of(rollout.sigmas, 1.0, policy.flow)

    def body(actor):  # type: ignore[no-untyped-def]
        found = []
        for k in range(5):
            for index, _ in chunks(8, 4):
                x, step = rollout.x[index, k], rollout.steps[index, k]
                mu = t.mean(x, actor.denoise(x, t.sigmas[step]), step)
                with actor.lora.disabled():
                    base = t.mean(x, actor.denoise(x, t.sigmas[step]), step)
                found.append(((mu - base) ** 2).flatten(1).mean(1) / (2 * t.s[step] ** 2))
        return float(torch.cat(found).mean())

    return policy.run(body, lora=lora, rows=4, grad=False)


def test_the_kl_has_no_gradient_before_the_lora_moves(policy: ToyPolicy) -> None:
    lora, rollout = rollout_of(policy)
    flat = Reward(torch.zeros(8), Feedback(8))
    _, still = update(policy, lora, rollout, flat, DDPOSettings(kl_coef=1.0), seed=0)
    assert still["grad_norm"] == 0
    assert still["kl_to_base"] == 0


def test_the_kl_coefficient_follows_its_target(policy: ToyPolicy) -> None:
    lora, rollout = rollout_of(policy)
    first, metrics = update(policy, lora, rollout, rewards(), DDPOSettings(kl_coef=0.3, kl_target=1e-12), seed=0)
    assert metrics["kl_coefficient"] == 0.3
    assert float(first.memory["kl"]) == pytest.approx(0.45)  # too far away: held harder from now on
    z_T = seeding.randn(SHAPE, seeding.picture_generators(8, 0, 2, "z_T"))
    second = sample(policy, first, z_T, torch.full((8,), -1), SETTINGS, seed=0, round=2)
    near, metrics = update(policy, first, second, rewards(), DDPOSettings(kl_coef=0.3, kl_target=1e9), seed=0)
    assert metrics["kl_coefficient"] == pytest.approx(0.45)
    assert float(near.memory["kl"]) == pytest.approx(0.3)
