# SPDX-License-Identifier: Apache-2.0
"""What the nodes ask of the host: its modes, progress, cancelling, devices, latents and pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.utils
import latent_preview
import numpy as np
import torch
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ..hero_core.errors import HeroError
from ..hero_core.policy import Progress
from .server import running_server

log = logging.getLogger(__name__)

EMBEDDING_MEMORY = 1 << 30
"""Bytes that training the embedding may take."""


@contextmanager
def normal_mode(grad: bool = False) -> Iterator[None]:
    """Out of the inference mode in which ComfyUI runs nodes: its tensors could never enter a loss later."""
    with torch.inference_mode(False), torch.set_grad_enabled(grad):
        yield


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
            image = previewer.decode_latent_to_preview_image("JPEG", framed(model.model, preview[:1].detach()))
        bar.update_absolute(done, total, image)

    return progress


def throw_if_cancelled() -> None:
    """Raise ComfyUI's own interruption if the user asked for one."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def training_device() -> torch.device:
    """Where small networks are trained, with room made for them."""
    device = comfy.model_management.get_torch_device()
    with torch.inference_mode():  # as the host moves models: quantised weights go in no other mode
        comfy.model_management.free_memory(EMBEDDING_MEMORY, device)
    return device


def latent_shape(model: Any, latent: Mapping[str, Any]) -> tuple[int, ...]:
    if "noise_mask" in latent:
        raise HeroError("The LATENT has a mask. HERO draws whole pictures: wire an Empty Latent Image.")
    samples = latent["samples"]
    hints = (latent[key] for key in ("downscale_ratio_spacial", "downscale_ratio_temporal") if key in latent)
    samples = comfy.sample.fix_empty_latent_channels(model, samples, *hints)
    if has_frames(model.model) and samples.ndim == 5 and samples.shape[2] > 1:
        raise HeroError(
            f"The LATENT has {samples.shape[2]} frames; HERO learns pictures, not video: set its length to 1."
        )
    samples = unframed(model.model, samples)
    if samples.ndim != 4:
        raise HeroError(f"The LATENT has shape {tuple(samples.shape)}; HERO learns pictures, (n, C, H, W), not video.")
    return tuple(samples.shape[1:])


def has_frames(model: Any) -> bool:
    """Whether a model of the host takes latents ``(n, C, frames, H, W)``."""
    return getattr(model.latent_format, "latent_dimensions", 2) == 3


def framed(model: Any, latents: Tensor) -> Tensor:
    """Latents of pictures as ``model`` takes them: with one frame where it has frames."""
    return latents.unsqueeze(2) if has_frames(model) else latents


def unframed(model: Any, latents: Tensor) -> Tensor:
    """The inverse of :func:`framed`, for latents of one frame."""
    return latents.squeeze(2) if has_frames(model) and latents.ndim == 5 else latents


def refuse_content(latent: Mapping[str, Any]) -> None:
    """Raise :class:`HeroError` where a LATENT holds a picture: a round is drawn from noise alone.

    An empty one has the same number everywhere, though not with all of the host's nodes 0.
    """
    samples = latent["samples"]
    if samples.numel() and not bool((samples == samples.flatten()[0]).all()):
        raise HeroError(
            f"The LATENT ({' x '.join(map(str, samples.shape))}) holds a picture, as from VAE Encode, and HERO Sampler "
            "draws from noise alone: wire an Empty Latent Image of the same size."
        )


def latents_in(model: Any, latent: Mapping[str, Any]) -> Tensor:
    """Latents of a finished LATENT in the scale of MODEL ``model``, the inverse of :func:`finished_latent`."""
    samples = framed(model.model, unframed(model.model, latent["samples"].to("cpu", torch.float32)))
    return unframed(model.model, model.model.process_latent_in(samples)).clone()


def finished_latent(model: Any, z_0: Tensor) -> dict[str, Tensor]:
    """A LATENT as samplers return it, from latents in the scale of MODEL ``model``."""
    return {"samples": model.model.process_latent_out(framed(model.model, z_0.to(torch.float32)))}


def picture_from(path: Path) -> Tensor:
    """A picture file as IMAGE ``(1, H, W, 3)``."""
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels / 255)[None]


# --- words for the person ---------------------------------------------------------------------------------------------


def say_on_node(node_id: object, sentence: str) -> dict[str, list[str]]:
    """Show a sentence on the node, in the tab that queued the workflow; returns it as the node's ``ui``, for /history.

    ``node_id``: the hidden ``unique_id``. Where nobody looks on, or the host shows no text, the second remains.
    """
    server = running_server()
    tab = getattr(server, "client_id", None)
    if tab is not None and node_id is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(sentence, str(node_id), tab)
    return {"hero_note": [sentence]}


class Notes:
    """What the running node has to tell a person: in the log, on the node, and in its ``ui``.

    ``at_once``: False where the node's own page shows its ``ui``, and the run ends soon.
    """

    def __init__(self, at_once: bool = True) -> None:
        self.at_once, self.sentences = at_once, list[str]()

    def __call__(self, sentence: str) -> None:
        log.info("%s", sentence)
        context = get_executing_context()
        self.sentences.append(sentence)
        if self.at_once:
            say_on_node(context and context.node_id, "\n".join(self.sentences))

    @property
    def ui(self) -> dict[str, list[str]]:
        """For the node's output; empty where there was nothing to tell."""
        return {"hero_note": self.sentences} if self.sentences else {}
