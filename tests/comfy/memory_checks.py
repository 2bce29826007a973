# SPDX-License-Identifier: Apache-2.0
"""What is measured of the reckoning of memory, in ComfyUI's process. ``python memory_checks.py CHECKOUT PACK OUT WHAT``
with ``quick`` or ``whole`` for the tests of ``test_fitting.py``, ``table`` for ``python -m tests.memory``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import inside  # noqa: F401 - it boots the host, so that comes first

# isort: split
import comfy.model_management
import real
import torch
from families import FAMILIES, Family
from family_checks import ROWS, policy_of, trained
from inside import NAMES, OUT, core_lora, difference, host, part, policy_module
from torch import Tensor

memory, room_module = part("nodes.comfy_memory"), part("hero_core.memory")
GB = 1 << 30
QUICK = ("SD 1.5", "Flux.1 dev", "Qwen-Image")
REAL = {one.name: one for one in real.TABLE if one.name in ("SD 1.5", "SDXL", "SD 3.5", "Z-Image")} | {
    "Flux.1 dev": real.Real("Flux.1 dev", "bf16"), "Qwen-Image": real.Real("Qwen-Image", "bf16")
}  # fmt: skip


class Elsewhere:
    """A device of a kind whose memory is known, which nobody has."""

    type = "cuda"


@contextmanager
def free(policy: Any, gigabytes: float) -> Iterator[None]:
    """A pretended card with so much free, of which the count knows nothing."""
    whole = {"get_free_memory": lambda *_: int(gigabytes * GB), "extra_reserved_memory": lambda: 0}
    with mock.patch.multiple(comfy.model_management, current_loaded_models=[], **whole):
        home, policy.model.load_device = policy.model.load_device, Elsewhere()
        try:
            yield
        finally:
            policy.model.load_device = home


def lived(policy: Any, work: Any, lora: Any, recompute: bool) -> float:
    """The most that was alive at once in a true call of the model, forwards and backwards."""

    def body(actor: Any) -> int:
        x, sigma = torch.randn(ROWS, *policy.latent_shape), policy.training_sigma(torch.full((ROWS,), 0.6))
        parameters = actor.lora.parameters().values()
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        root = actor.model.diffusion_model
        there = [*root.parameters(), *root.buffers(), *parameters, *(one.grad for one in parameters)]
        with memory._Living(there, float("inf")) as living:
            result = actor.denoise(x, sigma)
            if work.grad:
                result.square().mean().backward()
        return living.peak

    policy.recompute = recompute
    return policy.run(body, lora=lora, rows=ROWS, grad=work.grad, cfg=work.cfg)


def check_miniature(family: Family) -> dict[str, float]:
    """The count on the hollow copy, as a share of what lives in a true run of the model."""
    policy = policy_of(family)
    lora, found = trained(policy), {}
    for name, grad, recompute in (("drawing", False, False), ("again", True, True), ("kept", True, False)):
        work = memory.Work(family.cfg, grad)
        peak = memory.counted(policy, work, lora.config, ROWS, recompute=recompute)
        found[name] = ROWS * peak.row / lived(policy, work, lora, recompute)
    return found


def check_left_alone(family: Family) -> dict[str, Any]:
    """The model after its copy was counted: nothing hangs on it, and it draws what it drew."""
    policy = policy_of(family)
    lora, root = trained(policy), policy.model.model.diffusion_model
    body = lambda actor: actor.denoise(*at(policy)).cpu()  # noqa: E731

    def run() -> Tensor:
        return policy.run(body, lora=lora, rows=ROWS, grad=False, cfg=family.cfg)

    before, names = run(), [name for name, _ in root.named_parameters()]
    memory.counted(policy, memory.Work(family.cfg, True), lora.config, 1, recompute=True)
    tensors = [*root.parameters(), *root.buffers()]
    return {
        "difference": difference(before, run()),
        "hooks": sum(len(one._forward_hooks) for one in root.modules()),
        "hollow": sum(type(one.data) is not Tensor for one in tensors),
        "forwards": sum("forward" in vars(one) for one in root.modules()),
        "same": names == [name for name, _ in root.named_parameters()],
    }


def at(policy: Any) -> tuple[Tensor, Tensor]:
    x = torch.randn(ROWS, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    return x, policy.training_sigma(torch.full((ROWS,), 0.6))


def policy_of_real(one: real.Real) -> Any:
    """The policy of a model without weights, which its fingerprint would read."""
    with mock.patch.object(policy_module, "fingerprint", return_value="no weights"):
        return policy_module.ComfyPolicy(one.model(), one.text(1), one.text(2), one.latent())


def check_real(one: real.Real) -> dict[str, Any]:
    """The estimate, which is counted with one row, against a count with as many rows as it is asked for."""
    policy, config = policy_of_real(one), core_lora.LoRAConfig()
    found: dict[str, Any] = {}
    ways = (("drawing", False, False, 8), ("again", True, True, 3), ("kept", True, False, 2))
    for name, grad, recompute, rows in ways:
        work = memory.Work(1.0, grad)
        began = time.process_time()
        peak = memory.peak_of(policy, work, config, recompute=recompute)
        took = time.process_time() - began
        true = memory.counted(policy, work, config, rows, recompute=recompute)
        estimate = peak.fixed + rows * peak.row
        found[name] = {"share": estimate / (true.fixed + rows * true.row), "GB": peak.row / GB, "seconds": took}
    began = time.process_time()
    memory.peak_of(policy, memory.Work(1.0, True), config, recompute=True)
    return {**found, "again_seconds": time.process_time() - began}


def check_chosen() -> list[dict[str, Any]]:
    """What is chosen on pretended cards, and how the host is told of it when it loads the model."""
    policy = policy_of_real(real.Real("SD 1.5", "fp16", 512))
    found, work = [], memory.Work(5.0, True)
    for gigabytes in (2, 3, 4, 6, 12, 24):
        said: list[str] = []
        with free(policy, gigabytes):
            rows = memory.fit(policy, work, core_lora.LoRAConfig(), 8, False, said.append)
            room = memory.room_of(policy.model)
        found.append({
            "rows": rows, "recompute": policy.recompute, "said": said, "need": policy.need[True] / GB,
            "drawing": policy.need[False], "weights": room.weights / GB, "loaded": loaded(policy) / GB,
        })  # fmt: skip
    return found


def loaded(policy: Any) -> float:
    """What the host takes to be needed beside the weights, when it is to load the model for learning."""
    asked: list[float] = []

    def executor(model: Any, shape: list[int]) -> None:
        asked.append(model.model.memory_required(shape))

    part("nodes.comfy_training").load(policy.need[True], True, executor, policy.model, [1, *policy.latent_shape])
    return asked[0]


def check_unknown() -> dict[str, Any]:
    """A model that cannot run without numbers, and a device of which nothing is known."""
    policy, said = policy_of(FAMILIES["SD 1.5"]), []
    config, work = core_lora.LoRAConfig(), memory.Work(4.0, True)
    on_cpu = memory.fit(policy, work, config, 7, False, said.append)
    with mock.patch.object(type(policy.model.model), "_apply_model", side_effect=RuntimeError("no numbers")):
        again = memory.peak_of(policy, work, config, recompute=True)
        kept = memory.peak_of(policy, work, config, recompute=False)
    row = policy.model.model.memory_required([1, *policy.latent_shape])
    return {
        "on_cpu": on_cpu, "said": said, "recompute": policy.recompute, "need": policy.need[True],
        "again": again.row / row, "kept": kept,
    }  # fmt: skip


def check_stops_counting() -> dict[str, Any]:
    """Beyond what there is nothing is counted, and a greater memory is counted for again."""
    policy, config, work = policy_of(FAMILIES["SD 1.5"]), core_lora.LoRAConfig(), memory.Work(4.0, True)
    whole = memory.counted(policy, work, config, 1, recompute=False).row
    found = [memory.peak_of(policy, work, config, recompute=False, enough=share * whole) for share in (0.5, 0.9, 1.1)]
    less = memory.peak_of(policy, work, config, recompute=False, enough=0.5 * whole)
    return {"none": found[:2], "share": found[2].row / whole, "less": less}


def check_table() -> dict[str, dict[str, float]]:
    """The estimates of real models: GB of the weights, and of one picture beside them."""
    found = {}
    for one in real.TABLE:
        if not one.family.known:
            continue
        policy, config = policy_of_real(one), core_lora.LoRAConfig()
        works = {"drawing": memory.Work(one.cfg, False), "forward": memory.Work(one.cfg, True, guided=False),
                 "ddpo": memory.Work(one.cfg, True)}  # fmt: skip
        row = {"weights": policy.model.model_size() / GB}
        for name, work in works.items():
            peak = memory.peak_of(policy, work, config, recompute=work.grad)
            row[name] = (peak.fixed + peak.row) / GB
        found[one.title] = row
    return found


def of_tests(quick: bool) -> dict[str, Any]:
    families = {name: one for name, one in FAMILIES.items() if one.known and (name in QUICK) == quick}
    reals = {name: one for name, one in REAL.items() if one.family.known and (name in QUICK[:1]) == quick}
    found: dict[str, Any] = {"miniature": {}, "real": {name: check_real(one) for name, one in reals.items()}}
    for name, family in families.items():
        try:
            found["miniature"][name] = check_miniature(family)
        except Exception as error:
            found["miniature"][name] = {"error": repr(error)[:200]}
    if quick:
        found["left_alone"] = {name: check_left_alone(FAMILIES[name]) for name in QUICK}
        found |= {"chosen": check_chosen(), "unknown": check_unknown(), "stops": check_stops_counting()}
    return found


@torch.inference_mode()
def main() -> None:
    with host.normal_mode():
        found = check_table() if NAMES == ["table"] else of_tests(NAMES == ["quick"])
    OUT.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
