# SPDX-License-Identifier: Apache-2.0
"""What is measured of each family of models, in ComfyUI's process. ``python family_checks.py CHECKOUT PACK OUT NAMES``.

``test_families.py`` says what the numbers must be, ``python -m tests.families`` makes a table of them.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import inside  # it boots the host, so that comes first

# isort: split
import comfy.k_diffusion.sampling
import comfy.samplers
import comfy.sd
import comfy.utils
import torch
from families import FAMILIES, Family
from inside import NAMES, OUT, core_files, core_lora, difference, feedback, host, part, policy_module, seeding
from torch import Tensor

loop, store, preference = part("hero_core.loop"), part("hero_core.store"), part("hero_core.preference")
d3po, score_action = part("hero_core.update.d3po"), part("hero_core.update.score_action")
STEPS, ROWS = 10, 2
STATE = dict[str, Tensor]


class _TinyFlow(Family):
    """The trained model of the pack that flows."""

    def model(self, seed: int = 0) -> Any:
        return inside.tiny.flow_model(inside.FLOW_WEIGHTS["dit"])


TINY_FLOW = _TinyFlow("Lumina2", inside.DIT_CONFIG, (4, 16, 16), FAMILIES["Lumina 2"].text, 5.0, targets=14)


def policy_of(family: Family, model: Any = None, frames: int = 1) -> Any:
    """The family's policy as its users set it up: its guidance, a prompt, a LATENT of two."""
    shape = tuple(frames if len(family.latent) == 4 and i == 1 else side for i, side in enumerate(family.latent))
    latent = {"samples": torch.zeros(ROWS, *shape)}
    return policy_module.ComfyPolicy(model or family.model(), family.text(1), family.text(2), latent)


def trained(policy: Any, size: float = 0.05, **config: Any) -> Any:
    return inside.trained(policy, size, **config)


def sampling(family: Family, **more: Any) -> Any:
    chosen = {"steps": STEPS, "micro_batch": ROWS, "scored_steps": 5, "cfg": family.cfg, "scheduler": family.scheduler}
    return inside.rollout.SamplingSettings(**{**chosen, **more})


def drawn(family: Family, policy: Any, lora: Any) -> Any:
    z_T = seeding.randn(policy.latent_shape, seeding.picture_generators(ROWS, "z_T"))
    return inside.rollout.sample(policy, lora, z_T, torch.full((ROWS,), -1), sampling(family), seed=3, round=1)


# -- pictures ------------------------------------------------------------------------------------------------------


def check_drawing(family: Family) -> dict[str, Any]:
    """A round without a LoRA against the stock sampler, given the same noise.

    Of flow models the stock ancestral step has a noise of its own in every step, which no eta gives: ours are taken
    with the eta that gives it, each.
    """
    policy = policy_of(family)
    lora, sigmas = inside.untrained(policy), policy.sigmas(STEPS, family.scheduler)
    z_T = seeding.randn(policy.latent_shape, seeding.picture_generators(ROWS, "z_T"))
    noises = [seeding.randn(policy.latent_shape, seeding.picture_generators(ROWS, 3, i)) for i in range(STEPS)]
    call = {"lora": lora, "rows": ROWS, "grad": False, "cfg": family.cfg}
    z_0 = policy.run(lambda actor: walk(actor, policy.flow, z_T, sigmas, noises), **call)
    ours = host.finished_latent(policy.model, z_0)["samples"]
    theirs = stock(family, policy, z_T, sigmas, noises)
    return {"difference": difference(ours, theirs) / float(theirs.std()), "shapes": [ours.shape, theirs.shape]}


def walk(actor: Any, flow: bool, z_T: Tensor, sigmas: Tensor, noises: list[Tensor]) -> Tensor:
    x = actor.initial(z_T, float(sigmas[0]))
    for pair, noise in zip(pairwise(sigmas.tolist()), noises, strict=True):
        pair, eta = torch.tensor(pair), stock_eta(*pair) if flow else 1.0
        step = inside.transition.Transitions.of(pair, eta, flow)
        x = step.mean(x, actor.denoise(x, pair[:1].expand(len(x))), 0) + step.s[0] * noise
    return actor.final(x).cpu()


def stock_eta(sigma: float, after: float) -> float:
    """The eta of ours that adds as much noise as the host's ancestral step of flow models (its eta 1) does."""
    full = float(inside.transition.Transitions.of(torch.tensor([sigma, after]), 1.0, True).s[0])
    if full == 0:
        return 1.0
    down = after**2 / sigma
    return float((after**2 - (down * (1 - after) / (1 - down)) ** 2) ** 0.5) / full


def stock(family: Family, policy: Any, z_T: Tensor, sigmas: Tensor, noises: list[Tensor]) -> Tensor:
    waiting = iter(noises)
    sampler = comfy.samplers.KSAMPLER(
        comfy.k_diffusion.sampling.sample_euler_ancestral,
        extra_options={"noise_sampler": lambda *_: host.framed(policy.model.model, next(waiting))},
    )
    z_T = host.framed(policy.model.model, z_T)
    return comfy.samplers.sample(
        policy.model, z_T, family.text(1), family.text(2), family.cfg, policy.model.load_device, sampler, sigmas,
        model_options=policy.model.model_options, latent_image=torch.zeros_like(z_T), disable_pbar=True, seed=0,
    )  # fmt: skip


# -- gradients -----------------------------------------------------------------------------------------------------


class Slope:
    """A loss over two latents at one noise level: its gradient by the pack, and its slope by differences."""

    def __init__(self, policy: Any, lora: Any) -> None:
        self.policy, self.lora = policy, lora
        sigma = policy.training_sigma(torch.tensor([0.6] * ROWS)).clone()
        x = torch.randn(ROWS, *policy.latent_shape, generator=torch.Generator().manual_seed(2))
        self.x, self.sigma = x * (1.0 if policy.flow else float(sigma[0])), sigma
        self.weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def loss(self, actor: Any) -> Tensor:
        return (actor.denoise(self.x, self.sigma, "positive").double() * self.weight).mean()

    def gradient(self, recompute: bool) -> STATE:
        def body(actor: Any) -> STATE:
            self.loss(actor).backward()
            parameters = actor.lora.parameters().items()
            return {key: torch.zeros_like(one) if one.grad is None else one.grad for key, one in parameters}

        self.policy.recompute = recompute
        return self.policy.run(body, lora=self.lora, rows=ROWS, grad=True, cfg=1.0)

    def along(self, direction: STATE, h: float) -> float:
        """The slope by a difference of fourth order, in float32 with the sum in float64."""

        def at(step: float) -> float:
            moved = {key: value + step * direction[key] for key, value in self.lora.weights.items()}
            state = core_lora.LoRAState(self.lora.config, moved)
            return self.policy.run(lambda actor: float(self.loss(actor)), lora=state, rows=ROWS, grad=False, cfg=1.0)

        return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


def length(state: STATE) -> float:
    return sum(float(value.double().square().sum()) for value in state.values()) ** 0.5


def check_gradient(family: Family) -> dict[str, Any]:
    """The gradient against the slope of the loss along it, with blocks computed again and not; 1 is right."""
    policy = policy_of(family)
    slope = Slope(policy, trained(policy))
    plain, again = slope.gradient(False), slope.gradient(True)
    norm = length(plain)
    measured = slope.along({key: value / norm for key, value in plain.items()}, 3e-4 * length(slope.lora.weights))
    idle = [path for path in core_lora.lora_paths(plain) if not float(plain[f"{path}.lora_A.weight"].abs().max()) > 0]
    root = policy.model.model.diffusion_model
    found = inside.autograd.blocks(root)
    return {
        "slope": measured / norm,
        "recomputed": length({key: plain[key] - again[key] for key in plain}) / norm,
        "targets": len(plain) // 2,
        "idle": idle,
        "blocks": sorted({type(block).__name__ for block in found}),
        "outside": outside(root, found, plain),
    }


def outside(root: Any, found: list, gradient: STATE) -> int:
    """How many layers of the LoRA stand in no block that is computed again."""
    inner = {id(layer) for block in found for layer in block.modules()}
    return sum(id(root.get_submodule(path)) not in inner for path in core_lora.lora_paths(gradient))


# -- updates -------------------------------------------------------------------------------------------------------


def settings_of_rules(policy: Any) -> dict[str, Any]:
    few = {"batch": 2, "scored_steps": 5}
    return {
        "DDPO": inside.ddpo.DDPOSettings(**few),
        "D3PO": d3po.D3POSettings(**few),
        "Score as action": score_action.ScoreActionSettings(critic_steps=3, min_r2=-1e9, **few),
        "NFT": inside.nft.NFTSettings(steps=2, batch=2),
    }


def check_updates(family: Family) -> dict[str, Any]:
    """How far each rule moves the LoRA, and how far from 1 the ratio is before the first step."""
    policy = policy_of(family)
    lora = trained(policy)
    round = drawn(family, policy, lora)
    reward = inside.reward.Reward(torch.tensor([1.0, 0.0]), feedback.Feedback(ROWS, {0: "good", 1: "bad"}, 0))
    moved, error = {}, 0.0
    for name, settings in settings_of_rules(policy).items():
        after, metrics = part("hero_core.update").RULES[type(settings)](policy, lora, round, reward, settings, seed=0)
        moved[name] = max(difference(after.weights[key], lora.weights[key]) for key in lora.weights)
        error = max(error, metrics.get("ratio_error", 0.0))
    return {"moved": moved, "ratio_error": error, "finite": bool(round.z_0.isfinite().all())}


def check_resume(family: Family) -> dict[str, Any]:
    """Two rounds, the second by a new process's objects: the LoRA must be that of two rounds by the same ones."""
    folder = Path(tempfile.mkdtemp())
    lasting = policy_of(family)
    for _ in range(2):
        one_round(family, folder / "whole", lasting)
    for _ in range(2):
        one_round(family, folder / "resumed", policy_of(family))
    whole, resumed = (opened(folder / name).state().lora for name in ("whole", "resumed"))
    changed = max(difference(value, resumed.weights[key]) for key, value in whole.weights.items())
    return {"difference": changed, "rounds": opened(folder / "resumed").saved_round}


def opened(folder: Path) -> Any:
    return store.Store(folder, folder / "loras").open("family", store.SessionSettings(seed=5))


def one_round(family: Family, folder: Path, policy: Any) -> None:
    session = opened(folder)
    round = loop.sample_round(session, policy, ROWS, sampling(family, scored_steps=1))
    loop.show_round(session, round, torch.rand(ROWS, 8, 8, 3), "standalone")
    marks = session.round(round.round)
    marks.put_marks(0, feedback.Feedback(ROWS, {0: "good", 1: "bad"}, 0))
    marks.submit()
    reward = preference.reward_of_marks(round, marks.marks().feedback)
    learned = loop.update_lora(session, policy, round, reward, inside.nft.NFTSettings(steps=1, batch=2))
    loop.save_round(session, reward, learned)


# -- the file ------------------------------------------------------------------------------------------------------


@contextmanager
def warnings() -> Iterator[list[str]]:
    """What the host warns of: a key of a file that it cannot place."""
    seen: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield seen
    finally:
        logging.getLogger().removeHandler(handler)


def check_choices(family: Family) -> dict[str, dict[str, Any]]:
    """The file of each choice of layers, how far a step moves its LoRA, and which layers the step passes over."""
    found = {}
    for name, targets in core_lora.TARGETS.items():
        policy = policy_of(family)
        lora = trained(policy, targets=targets)
        round = drawn(family, policy, lora)
        reward = inside.reward.Reward(torch.tensor([1.0, 0.0]), feedback.Feedback(ROWS, {0: "good", 1: "bad"}, 0))
        after, _ = inside.nft.update(policy, lora, round, reward, inside.nft.NFTSettings(steps=1, batch=2), seed=0)
        moved = {path: difference(after.weights[f"{path}.lora_A.weight"], lora.weights[f"{path}.lora_A.weight"])
                 for path in core_lora.lora_paths(lora.weights)}  # fmt: skip
        # what passes a LoRA over is decayed by AdamW alone
        found[name] = {**check_file(family, targets), "idle": [path for path, by in moved.items() if by < 1e-4]}
    return found


def check_file(family: Family, targets: str = core_lora.ATTENTION) -> dict[str, Any]:
    """The LoRA's file through the stock loader: every key used, and the output that the LoRA has in training."""
    model = family.model()
    policy = policy_of(family, model)
    lora, untrained = trained(policy, targets=targets), inside.untrained(policy)
    keys = policy.lora_keys(core_lora.lora_paths(lora.weights))
    file = Path(tempfile.mkdtemp()) / "lora.safetensors"
    core_files.write_shared(file, *core_lora.lora_file(lora, keys, {}))
    with warnings() as seen:
        loaded, _ = comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(str(file)), 1.0, 0.0)
    slope = Slope(policy, lora)

    def denoised(model: Any, lora: Any) -> Tensor:
        body = lambda actor: actor.denoise(slope.x, slope.sigma, "positive")  # noqa: E731
        return policy_of(family, model).run(body, lora=lora, rows=ROWS, grad=False, cfg=1.0)

    trained_, filed, base = denoised(model, lora), denoised(loaded, untrained), denoised(model, untrained)
    return {
        "patched": len(loaded.patches),
        "layers": len(keys),
        "not_placed": [line for line in seen if "not loaded" in line],
        "difference": difference(trained_, filed) / difference(trained_, base),
        "socket": difference(denoised(policy_module.with_lora(model, lora), untrained), filed),
    }


def check_refusals(family: Family) -> dict[str, str]:
    """What is no picture, and what was learned on another model."""
    said = {"another": ""}
    lora = core_lora.LoRAState(core_lora.LoRAConfig(), {"elsewhere.lora_A.weight": torch.zeros(4, 4)})
    policy = policy_of(family)
    cases = {"another": lambda: policy.run(lambda actor: None, lora=lora, rows=ROWS, grad=False, cfg=1.0)}
    if len(family.latent) == 4:
        cases["frames"] = lambda: policy_of(family, frames=5)
    for name, case in cases.items():
        try:
            case()
        except inside.HeroError as error:
            said[name] = str(error)
    return said


def real_targets(family: Family) -> int:
    """How many layers the LoRA has on the real model."""
    root = family.base(torch.device("meta"), real=True, dtype=torch.bfloat16).diffusion_model
    layers = (path for path, layer in root.named_modules() if core_lora.is_linear(layer))
    return sum(re.fullmatch(core_lora.ATTENTION, path) is not None for path in layers)


def measure(family: Family) -> dict[str, Any]:
    began, results = time.process_time(), {}
    for name in ("drawing", "gradient", "updates", "resume", "choices", "refusals"):
        try:
            with host.normal_mode():
                results[name] = globals()[f"check_{name}"](family)
        except Exception:
            results[name] = {"error": traceback.format_exc()}
    results["file"] = results["choices"].get("attention", {})
    return {**results, "real": [real_targets(family), family.targets], "seconds": time.process_time() - began}


@torch.inference_mode()
def main() -> None:
    families = {**FAMILIES, "HERO tiny (flow)": TINY_FLOW}
    known = {name: families[name] for name in NAMES if families[name].known}
    results = {}
    for name, family in known.items():
        results[name] = measure(family)
        OUT.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
