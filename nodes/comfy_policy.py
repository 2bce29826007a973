"""The policy over a ComfyUI MODEL. What is known of ComfyUI's internals is known in the ``comfy_*`` files alone.

The loop runs inside ComfyUI's own guider, as a sampler of ours. So every kind of conditioning works (ControlNet, areas,
hooks), and ComfyUI keeps charge of devices and memory.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import comfy.ldm.modules.attention
import comfy.lora
import comfy.model_management
import comfy.model_sampling
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import latent_preview
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..hero_core.errors import HeroError
from ..hero_core.policy import LoRA, LoRAConfig, LoRAState, Progress, Side, fresh_lora, lora_paths

T = TypeVar("T")

TRAINING_MEMORY = 3
"""Room for the backward pass, in units of what ComfyUI reckons for a forward pass of the same rows."""

EMBEDDING_MEMORY = 1 << 30
"""Bytes that training the embedding may take."""

SCHEDULERS = list(comfy.samplers.KSampler.SCHEDULERS)
"""The stock schedulers, by the names that KSampler lists."""

KEY = "hero"
"""Under this key our wrappers and injections stand on a patcher."""

log = logging.getLogger(__name__)


class ComfyPolicy:
    """A MODEL with its conditioning and guidance; implements :class:`hero_core.policy.Policy`.

    ``latent`` is the LATENT whose size is sampled; ``words`` describes checkpoint and prompt for messages.
    Raises :class:`HeroError` for bases that cannot be trained (fp8, quantised) and latents that are no pictures.
    """

    def __init__(
        self,
        model: Any,
        positive: list,
        negative: list,
        cfg: float,
        latent: Mapping[str, Any],
        words: Mapping[str, str] | None = None,
    ) -> None:
        refuse_quantised(model)
        _refuse_batches(positive, negative)
        self.model, self.positive, self.negative, self.cfg = model, positive, negative, cfg
        self.latent_shape = _latent_shape(model, latent)
        sampling = model.get_model_object("model_sampling")
        self.flow = isinstance(sampling, comfy.model_sampling.CONST)
        self.mixed_sigmas = not _depends_on_time(model, [*positive, *negative])
        scale = getattr(model.get_model_object("latent_format"), "spacial_downscale_ratio", 8)
        size = " x ".join(str(side * scale) for side in reversed(self.latent_shape[1:]))
        self.description = {**(words or {}), "size": size}
        self.fingerprint = _fingerprint(model, positive, negative, self.latent_shape)

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

    def lora_key(self, path: str) -> str:
        """The kohya name of a module where ComfyUI knows one (SD 1.x, SDXL), else the generic name."""
        return _shared_key(self._lora_names, path)

    @cached_property
    def _lora_names(self) -> dict[str, list[str]]:
        return _lora_names(self.model.model)

    def run(self, body: Callable[[Any], T], *, lora: LoRAState, rows: int, grad: bool) -> T:
        """Load the model, attach ``lora``, call ``body(actor)``, detach."""
        patcher = trainable_clone(self.model)
        transformer_options = patcher.model_options.setdefault("transformer_options", {})
        transformer_options["optimized_attention_override"] = _pinned_attention
        if grad:
            patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, KEY, _reserve_memory)
        guider = comfy.samplers.CFGGuider(patcher)
        guider.set_conds(self.positive, self.negative)
        guider.set_cfg(self.cfg)
        sampler = _Body(body, lora, rows, grad)
        blank = torch.zeros(rows, *self.latent_shape)
        with _memory_hint(rows, grad), torch.inference_mode(not grad), torch.no_grad():
            guider.sample(blank, blank.clone(), sampler, self.sigmas(1, "simple"), disable_pbar=True, seed=0)
        return sampler.result


class ComfyActor:
    """The policy inside one sampler call; implements :class:`hero_core.policy.Actor`."""

    def __init__(self, guider: Any, extra_args: dict[str, Any], lora: LoRA, rows: int) -> None:
        self.guider, self.extra_args, self.lora, self.rows = guider, extra_args, lora, rows
        self.cfg, self.conds = guider.cfg, guider.conds
        self.model = guider.inner_model
        self.device = guider.model_patcher.load_device
        self.dtype = self.model.manual_cast_dtype or self.model.get_dtype()

    def denoise(self, x: Tensor, sigma: Tensor, side: Side = "guided") -> Tensor:
        """``x0_hat`` for ``rows`` latents; with guidance, cond and uncond go through the model one after the other."""
        if len(x) != self.rows:
            raise ValueError(f"denoise got {len(x)} rows in a run of {self.rows}; pad the last batch.")
        x, sigma = x.to(self.device, torch.float32), sigma.to(self.device, torch.float32)
        self.guider.set_cfg(self.cfg if side == "guided" else 1.0)
        self.guider.conds = {**self.conds, "positive": self.conds["negative" if side == "negative" else "positive"]}
        return self.guider(x, sigma, **self.extra_args).float()

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

    def __init__(self, body: Callable[[ComfyActor], Any], lora: LoRAState, rows: int, grad: bool) -> None:
        self.body, self.lora, self.rows, self.grad, self.result = body, lora, rows, grad, None

    def sample(  # type: ignore[no-untyped-def]
        self, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=True
    ):
        _isolate_conditions(guider.conds)
        if self.grad:
            make_trainable(guider.inner_model)
            _freeze_controls(guider.conds)
        root, device = guider.inner_model.diffusion_model, guider.model_patcher.load_device
        recompute = self.grad and device.type != "cpu"
        with (
            _attached(guider.model_patcher, self.lora) as lora,
            checkpointed(root) if recompute else nullcontext(),
            torch.set_grad_enabled(self.grad),
        ):
            self.result = self.body(ComfyActor(guider, extra_args, lora, self.rows))
        return noise


# --- attaching the LoRA -----------------------------------------------------------------------------------------------


@contextmanager
def _attached(patcher: Any, state: LoRAState) -> Iterator[LoRA]:
    """peft layers inside the loaded model, known to the patcher as an injection, and gone afterwards.

    The patcher must know, because hooks patch weights by name in the middle of sampling and eject injections first.
    """
    root = patcher.model.diffusion_model
    lora = LoRA.inject(root, state.config)
    try:
        lora.load(state.weights)
        for parameter in lora.parameters().values():
            parameter.data = parameter.data.to(patcher.load_device)
        wrapped = {path: (layer, layer.get_base_layer()) for path, layer in lora.layers.items()}
        inject = comfy.patcher_extension.PatcherInjection(
            inject=lambda _: _place(root, {path: layer for path, (layer, _base) in wrapped.items()}),
            eject=lambda _: _place(root, {path: base for path, (_layer, base) in wrapped.items()}),
        )
        patcher.set_injections(KEY, [inject])
        patcher.is_injected = True
        yield lora
    finally:
        lora.eject()
        patcher.remove_injections(KEY)
        patcher.is_injected = False


def _place(root: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    for path, module in modules.items():
        parent, _, name = path.rpartition(".")
        setattr(root.get_submodule(parent), name, module)


def with_lora(model: Any, state: LoRAState | None) -> Any:
    """A clone of the MODEL with the LoRA as stock patches, exactly as LoraLoader applies the file."""
    if state is None:
        return model
    tensors, names = {}, _lora_names(model.model)
    for path in lora_paths(state.weights):
        key = _shared_key(names, path)
        tensors[f"{key}.lora_down.weight"] = state.weights[f"{path}.lora_A.weight"]
        tensors[f"{key}.lora_up.weight"] = state.weights[f"{path}.lora_B.weight"]
        tensors[f"{key}.alpha"] = torch.tensor(state.config.alpha)
    patched, _ = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)
    return patched


def _shared_key(names: Mapping[str, list[str]], path: str) -> str:
    kohya = [name for name in names.get(f"diffusion_model.{path}.weight", []) if name.startswith("lora_unet_")]
    blocks = [name for name in kohya if name.startswith(("lora_unet_down_", "lora_unet_up_", "lora_unet_mid_"))]
    return (blocks or kohya or [f"diffusion_model.{path}"])[0]


def _lora_names(model: Any) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, weight in comfy.lora.model_lora_keys_unet(model, {}).items():
        if isinstance(weight, str):
            names.setdefault(weight, []).append(name)
    return names


# --- gradients in a host that lives in inference mode -----------------------------------------------------------------


@contextmanager
def normal_mode(grad: bool = False) -> Iterator[None]:
    """Out of the inference mode in which ComfyUI runs nodes: its tensors could never enter a loss later."""
    with torch.inference_mode(False), torch.set_grad_enabled(grad):
        yield


def make_trainable(model: nn.Module) -> None:
    """Replace parameters and buffers that were made in inference mode by clones, once; freeze all of them."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_inference():
                setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
            else:
                parameter.requires_grad_(False)
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_inference():
                module._buffers[name] = buffer.clone()


def _freeze_controls(conds: Mapping[str, list[dict]]) -> None:
    for cond in _all(conds):
        control = cond.get("control")
        for patcher in control.get_models() if control is not None else []:
            patcher.model.requires_grad_(False)


def trainable_clone(model: Any) -> Any:
    """A clone to put our options on. Where the host pages weights, the clone that keeps them in place."""
    if not getattr(model, "is_dynamic", lambda: False)():
        return model.clone()
    try:
        return model.get_non_dynamic_delegate()
    except RuntimeError as error:
        raise HeroError(
            f"This MODEL's weights are paged and cannot be held in place for training ({error}). "
            "Load it with a stock loader node, or start ComfyUI with --disable-dynamic-vram."
        ) from error


def refuse_quantised(model: Any) -> None:
    """Raise :class:`HeroError` unless all weights are plain float32, float16 or bfloat16."""
    plain = (torch.float32, torch.float16, torch.bfloat16)
    for name, parameter in model.get_model_object("diffusion_model").named_parameters():
        if parameter.dtype not in plain or type(parameter.data) is not Tensor:
            kind = str(parameter.dtype).removeprefix("torch.")
            if type(parameter.data) is not Tensor:
                kind = f"{type(parameter.data).__name__}"
            raise HeroError(
                f"This checkpoint is quantised ({name} is {kind}), and a LoRA cannot be trained on it yet. "
                "Load an fp16, bf16 or fp32 version (in Load Diffusion Model: weight_dtype 'default')."
            )


# --- memory -----------------------------------------------------------------------------------------------------------


def _reserve_memory(executor: Callable, model: Any, noise_shape: list[int], *args: Any, **kwargs: Any) -> Any:
    """Let the host leave room for a backward pass when it decides how much of the model to load."""
    return executor(model, [noise_shape[0] * TRAINING_MEMORY, *noise_shape[1:]], *args, **kwargs)


def training_device() -> torch.device:
    """Where small networks are trained, with room made for them."""
    device = comfy.model_management.get_torch_device()
    comfy.model_management.free_memory(EMBEDDING_MEMORY, device)
    return device


@contextmanager
def checkpointed(root: nn.Module) -> Iterator[None]:
    """Keep only the inputs of each block for the backward pass and compute the rest again: a third more time for a
    fraction of the memory. The same kernels run on the same numbers, so nothing else changes."""
    blocks = list(_blocks(root))
    for block in blocks:
        block.forward = _recomputing(block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own comes to light again


def _blocks(root: nn.Module) -> Iterator[nn.Module]:
    """The innermost repeated parts: residual and transformer blocks, of UNets and transformers alike."""
    lists = [module for module in root.modules() if isinstance(module, nn.ModuleList)]
    lists += [child for child in root.children() if isinstance(child, nn.Sequential)]
    items = [part for parts in lists for part in parts]
    items = [layer for item in items for layer in (item if isinstance(item, nn.Sequential) else [item])]
    for item in items:
        inner = (m for m in item.modules() if isinstance(m, nn.ModuleList))
        whole = not any(list(part.children()) for parts in inner for part in parts)
        if whole and list(item.children()) and "forward" not in vars(item):
            yield item


def _recomputing(forward: Callable) -> Callable:
    def recomputing(*args: Any, **kwargs: Any) -> Any:
        # The host writes the block's number into a shared dict, which says another one when the block is run again.
        args = tuple(dict(a) if isinstance(a, dict) else a for a in args)
        kwargs = {name: dict(a) if isinstance(a, dict) else a for name, a in kwargs.items()}
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return recomputing


@contextmanager
def _memory_hint(rows: int, grad: bool) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        comfy.model_management.soft_empty_cache(True)
        message = f"The GPU ran out of memory with {rows} pictures at a time. "
        if grad and rows > 1:
            message += (
                "A round is learned as it was drawn: save this one without the LoRA update (mute the node), then "
                f"lower micro_batch on HERO Sampler (now {rows}) for the next."
            )
        elif rows > 1:
            message += f"Lower micro_batch (now {rows}) and queue again."
        else:
            message += "Close other programs that use it, or begin a session with smaller pictures."
        raise HeroError(message) from error


def _pinned_attention(_function: Callable, *args: Any, **kwargs: Any) -> Tensor:
    """PyTorch's attention, whatever the host would choose: one function for sampling and for training."""
    return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)


# --- conditioning -----------------------------------------------------------------------------------------------------


class _Alone:
    """A condition that never shares a batch. The host joins prompts into one batch when memory is free, so the shape of
    a model call, and with it the rounding, would depend on what else is loaded."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def process_cond(self, **kwargs: Any) -> _Alone:
        return _Alone(self.inner.process_cond(**kwargs))

    def can_concat(self, other: Any) -> bool:
        return False

    def concat(self, others: list) -> Any:
        return self.inner.concat([other.inner for other in others])

    def size(self) -> list[int]:
        return self.inner.size()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def _isolate_conditions(conds: Mapping[str, list[dict]]) -> None:
    """Give every condition a batch of its own and tensors that may enter a loss."""
    for cond in _all(conds):
        cond["model_conds"] = {key: _Alone(_normal(value)) for key, value in cond["model_conds"].items()}


def _normal(condition: Any) -> Any:
    tensor = getattr(condition, "cond", None)
    if isinstance(tensor, Tensor) and tensor.is_inference() and not torch.is_inference_mode_enabled():
        return type(condition)(tensor.clone())
    if isinstance(tensor, list):
        return type(condition)([t.clone() if isinstance(t, Tensor) else t for t in tensor])
    return condition


def _all(conds: Mapping[str, list[dict]]) -> Iterator[dict]:
    for group in conds.values():
        yield from group


def _refuse_batches(*groups: list) -> None:
    for tensor, _ in (entry for group in groups for entry in group):
        if isinstance(tensor, Tensor) and tensor.ndim > 0 and len(tensor) > 1:
            raise HeroError(
                f"The conditioning holds a batch of {len(tensor)} prompts. A session learns one prompt; wire one."
            )


def _depends_on_time(model: Any, conditioning: list) -> bool:
    """Whether rows of different noise levels may not share a call: the host asks row 0 alone for the time."""
    timed = {"start_percent", "end_percent", "timestep_start", "timestep_end", "clip_start_percent", "control", "hooks"}
    if any(timed & options.keys() for _, options in conditioning):
        return True
    options = dict(model.model_options)
    transformer = options.pop("transformer_options", {})
    wrapped = any(any(kind.values()) for kind in getattr(model, "wrappers", {}).values())
    return bool(wrapped or transformer or {k for k, v in options.items() if v})


def _latent_shape(model: Any, latent: Mapping[str, Any]) -> tuple[int, ...]:
    if "noise_mask" in latent:
        raise HeroError("The LATENT has a mask. HERO draws whole pictures: wire an Empty Latent Image.")
    samples = latent["samples"]
    hints = (latent[key] for key in ("downscale_ratio_spacial", "downscale_ratio_temporal") if key in latent)
    samples = comfy.sample.fix_empty_latent_channels(model, samples, *hints)
    if samples.ndim != 4:
        raise HeroError(f"The LATENT has shape {tuple(samples.shape)}; HERO learns pictures, (n, C, H, W), not video.")
    return tuple(samples.shape[1:])


def latents_in(policy: ComfyPolicy, latent: Mapping[str, Any]) -> Tensor:
    """Latents of a finished LATENT in the model's own scale, the inverse of :func:`finished_latent`."""
    return policy.model.model.process_latent_in(latent["samples"].to("cpu", torch.float32)).clone()


def finished_latent(policy: ComfyPolicy, z_0: Tensor) -> dict[str, Tensor]:
    """A LATENT as samplers return it, from latents in the model's own scale."""
    return {"samples": policy.model.model.process_latent_out(z_0.to(torch.float32))}


def picture_from(path: Path) -> Tensor:
    """A picture file as IMAGE ``(1, H, W, 3)``."""
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels / 255)[None]


# --- fingerprint ------------------------------------------------------------------------------------------------------


def _fingerprint(model: Any, positive: list, negative: list, latent_shape: tuple[int, ...]) -> str:
    """Three short digests: weights, conditioning, size; so that a message can say which of them changed."""
    size = "x".join(str(side) for side in latent_shape)
    return f"{_weights_digest(model)}-{_conditioning_digest(positive, negative)}-{size}"


def _weights_digest(model: Any) -> str:
    """Signs of sampled weights: they survive every move between devices and precisions, and no finetuning."""
    digest = hashlib.sha256()
    backup = getattr(model, "backup", {})
    for key, weight in model.model_state_dict().items():
        if not key.startswith("diffusion_model."):
            continue
        weight = backup[key].weight if key in backup else weight
        digest.update(f"{key}{tuple(weight.shape)}".encode())
        digest.update(_signs(weight))
    for key in sorted(model.patches, key=str):
        _absorb(digest, key, model.patches[key], _signs)
    for key in sorted(model.object_patches):
        digest.update(f"{key}{type(model.object_patches[key]).__name__}".encode())
    sampling = model.get_model_object("model_sampling")
    digest.update(f"{float(sampling.sigma_min):.4g} {float(sampling.sigma_max):.4g}".encode())
    return digest.hexdigest()[:16]


def _signs(tensor: Tensor, samples: int = 1024) -> bytes:
    flat = tensor.detach().reshape(-1)
    picked = flat[:: max(1, len(flat) // samples)]
    return torch.signbit(picked.to("cpu", torch.float32)).numpy().tobytes()


def _conditioning_digest(positive: list, negative: list) -> str:
    digest = hashlib.sha256()
    _absorb(digest, "positive", positive, _half)
    _absorb(digest, "negative", negative, _half)
    return digest.hexdigest()[:16]


def _half(tensor: Tensor) -> bytes:
    return f"{tuple(tensor.shape)}".encode() + tensor.detach().to("cpu", torch.float16).contiguous().numpy().tobytes()


def _absorb(digest: Any, key: object, value: Any, of_tensor: Callable[[Tensor], bytes]) -> None:
    """Hash nested containers; an object counts by its type and, where it has them, its weights."""
    digest.update(str(key).encode())
    if isinstance(value, Tensor):
        digest.update(of_tensor(value))
    elif isinstance(value, Mapping):
        for name in sorted(value, key=str):
            if name not in ("uuid",):
                _absorb(digest, name, value[name], of_tensor)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            _absorb(digest, number, item, of_tensor)
    elif isinstance(value, (str, int, float, bool, type(None))):
        digest.update(repr(value).encode())
    else:
        digest.update(type(value).__name__.encode())
        _absorb(digest, "weights", getattr(value, "weights", None), of_tensor)


# --- progress ---------------------------------------------------------------------------------------------------------


def comfy_progress(model: Any = None) -> Progress:
    """The node's progress bar, with previews when ``model`` is given; raises when the user cancels."""
    bar: comfy.utils.ProgressBar | None = None
    previewer = None
    if model is not None:
        previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def progress(done: int, total: int, preview: Tensor | None = None) -> None:
        nonlocal bar
        throw_if_cancelled()
        bar = bar or comfy.utils.ProgressBar(total)
        image = None
        if previewer is not None and preview is not None:
            image = previewer.decode_latent_to_preview_image("JPEG", preview[:1].detach())
        bar.update_absolute(done, total, image)

    return progress


def throw_if_cancelled() -> None:
    """Raise ComfyUI's own interruption if the user asked for one."""
    comfy.model_management.throw_exception_if_processing_interrupted()
