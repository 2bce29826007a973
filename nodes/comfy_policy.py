# SPDX-License-Identifier: Apache-2.0
"""The policy over a ComfyUI MODEL. What is known of ComfyUI's internals is known in the ``comfy_*`` files alone.

The loop runs inside ComfyUI's own guider, as a sampler of ours. So every kind of conditioning works (ControlNet, areas,
hooks), and ComfyUI keeps charge of devices and memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import comfy.model_sampling
import comfy.patcher_extension
import comfy.samplers
import comfy.sd
import torch
from torch import Tensor

from ..hero_core.errors import HeroError
from ..hero_core.lora import LoRA, LoRAConfig, LoRAState, Names, called, fresh_lora, lora_file, lora_paths
from ..hero_core.policy import Side
from ..hero_core.precision import GradientScale
from .comfy_about import about
from .comfy_autograd import differentiable, one_kind_of_kernels
from .comfy_conditioning import depends_on_time, freeze_controls, isolate_conditions, refuse_batches
from .comfy_fingerprint import fingerprint
from .comfy_frozen import quantised, refetching, refuse_unreadable
from .comfy_host import framed, latent_shape, unframed
from .comfy_names import shared_names
from .comfy_training import (
    load,
    make_trainable,
    memory_hint,
    pinned_attention,
    trainable_clone,
)

T = TypeVar("T")

SCHEDULERS = list(comfy.samplers.KSampler.SCHEDULERS)
"""The stock schedulers, by the names that KSampler lists."""

KEY = "hero"
"""Under this key our wrappers stand on a patcher, and under names that begin with it our injections."""


class ComfyPolicy:
    """A MODEL with its conditioning; implements :class:`hero_core.policy.Policy`.

    ``latent`` is the LATENT whose size is sampled; ``words`` describes checkpoint and prompt for messages. Latents of
    one frame are pictures, ``(C, H, W)``. ``recompute`` says whether the backward pass computes each block again, and
    ``need`` how many bytes beside the weights drawing (False) and learning (True) take, where that was reckoned.
    Raises :class:`HeroError` for bases whose weights cannot be read and latents that are no pictures.
    """

    def __init__(
        self,
        model: Any,
        positive: list,
        negative: list,
        latent: Mapping[str, Any],
        words: Mapping[str, str] | None = None,
    ) -> None:
        refuse_unreadable(model)
        refuse_batches(positive, negative)
        self.model, self.positive, self.negative = model, positive, negative
        self.quantised = quantised(model)
        self.latent_shape = latent_shape(model, latent)
        self.recompute = model.load_device.type != "cpu"
        self.need: dict[bool, float | None] = {False: None, True: None}
        sampling = model.get_model_object("model_sampling")
        self.flow = isinstance(sampling, comfy.model_sampling.CONST)
        self.mixed_sigmas = not depends_on_time(model, [*positive, *negative])
        self.scale = getattr(model.get_model_object("latent_format"), "spacial_downscale_ratio", 8)
        size = " x ".join(str(side * self.scale) for side in reversed(self.latent_shape[1:]))
        self.description = {**(words or {}), "size": size}
        self.fingerprint = fingerprint(model, positive, negative, self.latent_shape)
        self.about = about(model, self.description.get("checkpoint"))

    def sigmas(self, steps: int, scheduler: str) -> Tensor:
        """Noise levels ``(steps + 1,)`` as the stock samplers take them."""
        if scheduler not in SCHEDULERS:
            raise HeroError(f"scheduler is {scheduler!r}; it is one of {', '.join(SCHEDULERS)}.")
        sampling = self.model.get_model_object("model_sampling")
        return comfy.samplers.calculate_sigmas(sampling, scheduler, steps).to("cpu", torch.float32).clone()

    def training_sigma(self, u: Tensor) -> Tensor:
        """Noise levels at the shares ``u`` of the model's own table, which every model family of the host has."""
        table = self.model.get_model_object("model_sampling").sigmas.to("cpu", torch.float32)
        return table[(u * (len(table) - 1)).round().long()]

    def fresh_lora(self, config: LoRAConfig, generator: torch.Generator) -> LoRAState:
        """An untrained LoRA for the diffusion model."""
        return fresh_lora(self.model.get_model_object("diffusion_model"), config, generator)

    def lora_keys(self, paths: Sequence[str]) -> dict[str, Names]:
        """The names that the host's loader, and where that can be others, read: see :func:`shared_names`."""
        return shared_names(self.model.model, paths, whole=self.quantised)

    def run(self, body: Callable[[Any], T], *, lora: LoRAState, rows: int, grad: bool, cfg: float) -> T:
        """Load the model, attach ``lora``, call ``body(actor)``, detach."""
        patcher = trainable_clone(self.model)
        transformer_options = patcher.model_options.setdefault("transformer_options", {})
        transformer_options["optimized_attention_override"] = pinned_attention
        # In inference mode a quantised weight computes by other kernels.
        normal_mode = grad or self.quantised
        loading = partial(load, self.need[grad], grad)
        patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, KEY, loading)
        guider = comfy.samplers.CFGGuider(patcher)
        guider.set_conds(self.positive, self.negative)
        guider.set_cfg(cfg)
        sampler = _Body(body, lora, rows, grad, self.recompute)
        blank = framed(patcher.model, torch.zeros(rows, *self.latent_shape))
        with memory_hint(rows, grad), one_kind_of_kernels(), torch.inference_mode(not normal_mode), torch.no_grad():
            guider.sample(blank, blank.clone(), sampler, self.sigmas(1, "simple"), disable_pbar=True, seed=0)
        return sampler.result


class ComfyActor:
    """The policy inside one sampler call; implements :class:`hero_core.policy.Actor`."""

    def __init__(self, guider: Any, extra_args: dict[str, Any], lora: LoRA, rows: int, grad: bool) -> None:
        self.guider, self.extra_args, self.lora, self.rows = guider, extra_args, lora, rows
        self.cfg, self.conds = guider.cfg, guider.conds
        self.model = guider.inner_model
        self.device = guider.model_patcher.load_device
        self.dtype = self.model.manual_cast_dtype or self.model.get_dtype()
        self.gradient_scale = GradientScale.of(self.dtype, lora.parameters().values()) if grad else None

    def denoise(self, x: Tensor, sigma: Tensor, side: Side = "guided") -> Tensor:
        """``x0_hat`` for ``rows`` latents; with guidance, cond and uncond go through the model one after the other."""
        if len(x) != self.rows:
            raise ValueError(f"denoise got {len(x)} rows in a run of {self.rows}; pad the last batch.")
        x, sigma = x.to(self.device, torch.float32), sigma.to(self.device, torch.float32)
        self.guider.set_cfg(self.cfg if side == "guided" else 1.0)
        self.guider.conds = {**self.conds, "positive": self.conds["negative" if side == "negative" else "positive"]}
        x0_hat = unframed(self.model, self.guider(framed(self.model, x), sigma, **self.extra_args).float())
        return x0_hat if self.gradient_scale is None else self.gradient_scale.enter(x0_hat)

    def initial(self, z_T: Tensor, sigma: float) -> Tensor:
        """ComfyUI's own scaling of unit noise, ``sqrt(1 + sigma^2)`` at the model's last noise level included."""
        z_T = z_T.to(self.device, torch.float32)
        sigmas = torch.tensor([sigma], device=self.device)
        whole = comfy.samplers.Sampler().max_denoise(self.guider, sigmas)
        return self.model.model_sampling.noise_scaling(sigmas[0], z_T, torch.zeros_like(z_T), whole)

    def final(self, x: Tensor) -> Tensor:
        """The inverse scaling at sigma 0."""
        return self.model.model_sampling.inverse_noise_scaling(torch.zeros((), device=x.device), x)


class _Body(comfy.samplers.Sampler):
    """A sampler whose sampling is ``body(actor)``; what it returned is in ``result``."""

    def __init__(
        self, body: Callable[[ComfyActor], Any], lora: LoRAState, rows: int, grad: bool, recompute: bool
    ) -> None:
        self.body, self.lora, self.rows, self.grad, self.recompute = body, lora, rows, grad, recompute
        self.result: Any = None

    def sample(  # type: ignore[no-untyped-def]
        self, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=True
    ):
        isolate_conditions(guider.conds)
        if not torch.is_inference_mode_enabled():
            make_trainable(guider.inner_model)
        if self.grad:
            freeze_controls(guider.conds)
        root = guider.inner_model.diffusion_model
        with (
            _attached(guider.model_patcher, self.lora) as lora,
            refetching(root, guider.model_patcher.load_device) if self.grad else nullcontext(),
            differentiable(root, self.recompute) if self.grad else nullcontext(),
            torch.set_grad_enabled(self.grad),
        ):
            self.result = self.body(ComfyActor(guider, extra_args, lora, self.rows, self.grad))
        return noise


@contextmanager
def _attached(patcher: Any, state: LoRAState) -> Iterator[LoRA]:
    """The LoRA on the loaded model. Its layers stay the host's own, which may patch or move them at any step."""
    lora = LoRA.inject(patcher.model.diffusion_model, state.config)
    try:
        lora.load(state.weights)
        lora.to(patcher.load_device)
        yield lora
    finally:
        lora.eject()


def with_lora(model: Any, state: LoRAState | None) -> Any:
    """A clone of the MODEL with the LoRA as stock patches, exactly as LoraLoader applies the file.

    Where weights are quantised the LoRA stays beside them: merged, most of it would be lost in their rounding.
    """
    if state is None:
        return model
    if quantised(model):
        beside = model.clone()
        beside.set_injections(f"{KEY} {_digest(state)}", [_Beside(state)])
        if called(state.config.targets) != "attention":
            beside.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, KEY, _layer_by_layer)
        return beside
    tensors, _ = lora_file(state, shared_names(model.model, lora_paths(state.weights)), {})
    patched, _ = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)
    return patched


def _layer_by_layer(executor: Callable, *args: Any, **kwargs: Any) -> Any:
    """The host has kernels for more than one layer, which pass over what hangs on each."""
    with one_kind_of_kernels():
        return executor(*args, **kwargs)


class _Beside(comfy.patcher_extension.PatcherInjection):
    """A LoRA that the host puts on a model when it loads it, and takes off again."""

    def __init__(self, state: LoRAState) -> None:
        super().__init__(self._put_on, self._take_off)
        self.config, self.weights = state.config, state.weights
        self.lora: LoRA | None = None

    def _put_on(self, patcher: Any) -> None:
        self._take_off(patcher)
        self.lora = LoRA.inject(patcher.model.diffusion_model, self.config)
        self.lora.load(self.weights)
        self.lora.to(patcher.load_device)

    def _take_off(self, _patcher: Any) -> None:
        if self.lora is not None:
            self.lora.eject()
        self.lora = None


def _digest(state: LoRAState) -> str:
    """The host takes two clones for one model where their injections have the same names."""
    digest = hashlib.sha256(repr(state.config).encode())
    for key, weight in state.weights.items():
        digest.update(key.encode() + weight.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]

