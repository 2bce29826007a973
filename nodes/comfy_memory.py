# SPDX-License-Identifier: Apache-2.0
"""What drawing and learning take at their peak, counted on a copy of the model that has shapes and no numbers.

The copy runs once, forwards and backwards, with the LoRA and the blocks of the true run; every storage is counted while
it lives. So a model that nobody has heard of is counted as well. It is a copy on the CPU, whatever the card.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from ..hero_core.lora import LoRA, LoRAConfig
from ..hero_core.memory import Choice, Peak, Room, choose, sentence
from ..hero_core.rollout import DRAWN, SamplingSettings
from ..hero_core.store import Session
from ..hero_core.update.common import OptimizerSettings
from .comfy_autograd import differentiable, one_kind_of_kernels
from .comfy_frozen import is_plain, refetching
from .comfy_host import framed
from .comfy_policy import ComfyPolicy
from .comfy_training import TRAINING_MEMORY, pinned_attention
from .sockets import Drawn

log = logging.getLogger(__name__)

CPU = torch.device("cpu")

KNOWN = ("cuda", "xpu", "npu", "mlu", "mps")
"""Kinds of devices of which the host knows how much memory is free."""

STATES = 5
"""Copies of the LoRA in float32 while it learns: itself, its gradient, two of Adam's, and one that is worn in turn."""


@dataclass(frozen=True)
class Work:
    """What runs: ``grad``, to learn; ``guided``, by both prompts; ``held``, predictions that one loss holds."""

    cfg: float
    grad: bool
    guided: bool = True
    held: int = 1

    def prompts(self, policy: Any) -> list[list]:
        """The prompt of each call that is held."""
        both = self.guided and not math.isclose(self.cfg, 1.0)
        return [policy.positive, policy.negative][: 2 if both else 1] * self.held


Tell = Callable[[str], None]
"""``tell(sentence)`` to the person who looks on."""


def rows_to_draw(policy: ComfyPolicy, session: Session, n: int, settings: SamplingSettings, tell: Tell) -> int:
    """How many of ``n`` pictures go through the model at a time when a round is drawn."""
    work, rows = Work(settings.cfg, grad=False), min(settings.micro_batch or DRAWN, n)
    return fit(policy, work, session.settings.lora, rows, settings.micro_batch > 0, tell)


def rows_to_learn(drawn: Drawn, settings: OptimizerSettings, tell: Tell) -> int:
    """How many rows go through the model at a time in an update."""
    work = Work(drawn.rollout.settings.cfg, grad=True, guided=settings.guided, held=settings.held)
    rows, asked = settings.rows(drawn.rollout), settings.micro_batch > 0
    return fit(drawn.policy, work, drawn.session.settings.lora, rows, asked, tell)


def fit(policy: ComfyPolicy, work: Work, config: LoRAConfig, most: int, exactly: bool, tell: Tell) -> int:
    """Choose how the next run of ``policy`` goes, by the memory that there is; returns the rows of a call.

    At most ``most``, or ``exactly`` so many. On a CPU, and where nothing is known of the memory, nothing is chosen.
    """
    choice = chosen(policy, work, config, most, exactly)
    if choice is None:
        return most
    if told := sentence(choice, min(policy.latent_shape[1:]) * policy.scale):
        tell(told)
    return choice.rows


def chosen(policy: Any, work: Work, config: LoRAConfig, most: int, exactly: bool = False) -> Choice | None:
    """As :func:`fit`, which tells of it; None where nothing is chosen."""
    room = room_of(policy.model)
    if room is None:
        return None

    def reckon(recompute: bool, enough: float) -> Peak | None:
        return peak_of(policy, work, config, recompute=recompute, enough=enough)

    choice = choose(most, room, reckon, exactly=exactly, learns=work.grad)
    policy.need[work.grad] = choice.need
    if work.grad:
        policy.recompute = choice.recompute
    log.debug("HERO chose %s", choice)
    return choice


def room_of(model: Any) -> Room | None:
    """The memory of a MODEL's device; None where the host does not know it."""
    device = model.load_device
    if device.type not in KNOWN:
        return None
    management = comfy.model_management
    loaded = [one for one in management.current_loaded_models if one.device == device and one.model is not None]
    free = management.get_free_memory(device) + sum(one.model_loaded_memory() for one in loaded)
    return Room(int(free - management.extra_reserved_memory()), int(model.model_size()))


# -- counting ------------------------------------------------------------------------------------------------------

_counted: weakref.WeakKeyDictionary[Any, dict[Hashable, Peak | float]] = weakref.WeakKeyDictionary()
"""By model and question: the peak, or what it was seen to be above."""


def peak_of(policy: Any, work: Work, config: LoRAConfig, *, recompute: bool, enough: float = math.inf) -> Peak | None:
    """The peak of ``work``, counted with one row, and once for each model; None where that takes more than ``enough``.

    A model that cannot be counted is taken at the host's own estimate.
    """
    prompts = work.prompts(policy)
    shapes = tuple(tuple(one.shape) for one in tree_iter(prompts) if isinstance(one, Tensor))
    key = (policy.latent_shape, shapes, config.rank, config.targets, work.grad, recompute)
    known = _counted.setdefault(policy.model.model, {})
    found = known.get(key)
    if found is None or (isinstance(found, float) and found < enough):
        found = known[key] = _counted_or_estimated(policy, work, config, recompute, enough)
    return found if isinstance(found, Peak) and found.row <= enough else None


def _counted_or_estimated(
    policy: Any, work: Work, config: LoRAConfig, recompute: bool, enough: float
) -> Peak | float:
    try:
        return counted(policy, work, config, 1, recompute=recompute, enough=enough)
    except _Enough:
        return enough
    except Exception as error:  # whatever an unknown model does without numbers, it draws and learns as before
        log.debug("The memory of %s could not be counted: %r", type(policy.model.model).__name__, error)
    if work.grad and not recompute:
        return math.inf
    row = policy.model.model.memory_required([1, *policy.latent_shape])
    return Peak(0.0, row * (TRAINING_MEMORY * len(work.prompts(policy)) if work.grad else 1))


def counted(
    policy: Any, work: Work, config: LoRAConfig, rows: int, *, recompute: bool, enough: float = math.inf
) -> Peak:
    """As :func:`peak_of`, of one count with ``rows`` rows."""
    mode, model = FakeTensorMode(allow_non_fake_inputs=True), policy.model.model
    noise = framed(model, torch.zeros(rows, *policy.latent_shape))
    calls = [call for prompt in work.prompts(policy) for call in _calls(model, prompt, noise)]
    base = _hollow(model, mode, {})
    base.current_patcher = None
    with ExitStack() as stack:
        for context in (torch.inference_mode(False), mode, one_kind_of_kernels(), torch.set_grad_enabled(work.grad)):
            stack.enter_context(context)
        lora, root = LoRA.inject(base.diffusion_model, config), base.diffusion_model
        parameters = list(lora.parameters().values())
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)  # as from the calls before, which are added up
        if work.grad:
            stack.enter_context(refetching(root, CPU))
            stack.enter_context(differentiable(root, recompute))
        there = [*root.parameters(), *root.buffers(), *parameters, *(one.grad for one in parameters)]
        living = stack.enter_context(_Living(there, enough))
        _run(base, noise.shape, calls, work.grad)
    states = sum(one.numel() for one in parameters) * 4 * (STATES if work.grad else 1)
    return Peak(states, living.peak / rows)


def _run(base: Any, shape: Sequence[int], calls: list[dict[str, Any]], grad: bool) -> None:
    x, sigma = torch.zeros(shape), torch.zeros(shape[0])
    if not grad:
        for call in calls:
            _predict(base, x, sigma, call)
        return
    sum((_predict(base, x, sigma, call).square().mean() for call in calls), torch.zeros(())).backward()


def _calls(model: Any, prompt: list, noise: Tensor) -> Iterator[dict[str, Any]]:
    """What the model is called with for each condition of a prompt."""
    conditions = comfy.sampler_helpers.convert_cond(prompt)
    for one in comfy.samplers.encode_model_conds(model.extra_conds, conditions, noise, CPU, "positive"):
        whole = {"batch_size": len(noise), "area": None}
        yield {name: value.process_cond(**whole).cond for name, value in one["model_conds"].items()}


def _predict(base: Any, x: Tensor, sigma: Tensor, call: dict[str, Any]) -> Tensor:
    options = {
        "optimized_attention_override": pinned_attention, "sigmas": sigma, "sample_sigmas": sigma,
        "cond_or_uncond": [0], "uuids": [],
    }  # fmt: skip
    # What came out of inference mode may not enter a backward pass, shapes may.
    call = tree_map_only(Tensor, lambda one: torch.zeros(one.shape, dtype=one.dtype), call)
    return base.apply_model(x, sigma, **call, transformer_options=options).float()  # type: ignore[no-any-return]


class _Enough(Exception):
    """More is alive than one asked to know of."""


class _Living(TorchDispatchMode):
    """Counts the bytes of the storages that came to life in this mode and are alive; ``peak``: the most there were."""

    def __init__(self, there: Sequence[Any], enough: float) -> None:
        super().__init__()
        self.now, self.peak, self.enough = 0, 0, enough
        self.known: dict[int, Any] = {tensor.untyped_storage()._cdata: None for tensor in there}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for one in tree_iter(result):
            if isinstance(one, Tensor):
                self._see(one.untyped_storage())
        return result

    def _see(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known[key] = weakref.ref(storage, lambda _: self._gone(key, size))
        self.now += size
        self.peak = max(self.peak, self.now)
        if self.peak > self.enough:
            raise _Enough

    def _gone(self, key: int, size: int) -> None:
        del self.known[key]
        self.now -= size


def _hollow(module: nn.Module, mode: FakeTensorMode, known: dict[nn.Module, nn.Module]) -> Any:
    """A module of the same kind whose tensors have shapes and no numbers, and nothing of whose is the module's own."""
    if module in known:
        return known[module]
    copy: Any = object.__new__(type(module))
    known[module] = copy
    copy.__dict__ = {name: _apart(one, mode) for name, one in vars(module).items()}
    for name, tensor in module._parameters.items():
        copy._parameters[name] = tensor if tensor is None else nn.Parameter(_shape(tensor, mode), requires_grad=False)
    for name, buffer in module._buffers.items():
        copy._buffers[name] = None if buffer is None else _shape(buffer, mode)
    for name, child in module._modules.items():
        copy._modules[name] = child if child is None else _hollow(child, mode, known)
    return copy


def _apart(value: Any, mode: FakeTensorMode) -> Any:
    """What a module has beside its parameters. Hooks and caches of the copy never reach the model."""
    if isinstance(value, Tensor):
        return _shape(value, mode)
    return value.copy() if isinstance(value, dict | list) else value


def _shape(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    """A tensor without numbers; for a quantised weight one of bytes, which its layer reads as it reads any."""
    plain = is_plain(tensor) or not tensor.is_floating_point() or tensor.ndim < 2
    with mode:
        return torch.empty(tensor.shape, dtype=tensor.dtype if plain else torch.float8_e4m3fn)
