# SPDX-License-Identifier: Apache-2.0
"""The LoRA's file in diffusers: ``python diffusers_checks.py CHECKOUT PACK OUT NAMES``.

A miniature of ComfyUI's class and one of diffusers' class with the same weights, carried over by the host's own tables.
``test_diffusers.py`` says what the numbers must be.
"""

from __future__ import annotations

import json
import logging
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inside import (  # it boots the host, so that comes first
    NAMES,
    OUT,
    core_files,
    core_lora,
    difference,
    policy_module,
)

# isort: split
import comfy.utils
import diffusers
import torch
from families import FAMILIES, FLUX, Family, near_unit
from torch import Tensor

ROWS = 2
INPUTS = dict[str, Tensor]


@dataclass(frozen=True)
class Twin:
    """``family`` in ComfyUI, ``make`` in diffusers, ``names`` from its weights to the host's; how both are called."""

    family: Family
    make: Callable[[], Any]
    names: Callable[[dict[str, Any]], dict[str, Any]]
    inputs: Callable[[Any], INPUTS]
    ours: Callable[[Any, INPUTS], Tensor]
    theirs: Callable[[Any, INPUTS], Tensor]
    pipeline: Callable[[Any], Any]
    choices: tuple[str, ...] = tuple(core_lora.TARGETS)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- UNets -----------------------------------------------------------------------------------------------------------

UNET = {"sample_size": 16, "cross_attention_dim": 64}
CROSS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")


def sd15() -> Any:
    return diffusers.UNet2DConditionModel(
        **UNET, block_out_channels=(32, 64), layers_per_block=1, attention_head_dim=8,
        down_block_types=CROSS[:1] * 2, up_block_types=CROSS[1:] * 2,
    )  # fmt: skip


def sdxl() -> Any:
    return diffusers.UNet2DConditionModel(
        **UNET, block_out_channels=(32, 64, 128), layers_per_block=2, attention_head_dim=(1, 1, 2),
        down_block_types=("DownBlock2D", *CROSS[:1] * 2), up_block_types=(*CROSS[1:] * 2, "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    )  # fmt: skip


def unet_names(config: dict[str, Any]) -> dict[str, Any]:
    return comfy.utils.unet_to_diffusers(config)


def unet_inputs(unet: Any) -> INPUTS:
    found = {"x": drawn(ROWS, 4, 16, 16, seed=1), "t": torch.tensor([500, 100]), "text": drawn(ROWS, 77, 64, seed=2)}
    if unet.config.addition_embed_type:
        found |= {"pooled": drawn(ROWS, 1280, seed=3), "ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]] * ROWS)}
        times = unet.add_time_proj(found["ids"].flatten()).reshape(ROWS, -1)
        found["y"] = torch.cat([found["pooled"], times], 1)
    return found


def unet_ours(root: Any, given: INPUTS) -> Tensor:
    return root(given["x"], given["t"], context=given["text"], y=given.get("y"))


def unet_theirs(unet: Any, given: INPUTS) -> Tensor:
    added = {"text_embeds": given["pooled"], "time_ids": given["ids"]} if "pooled" in given else None
    return unet(given["x"], given["t"], given["text"], added_cond_kwargs=added).sample


def sd_pipeline(unet: Any) -> Any:
    return diffusers.StableDiffusionPipeline(
        None, None, None, unet, None, None, None, requires_safety_checker=False
    )  # fmt: skip


def sdxl_pipeline(unet: Any) -> Any:
    return diffusers.StableDiffusionXLPipeline(None, None, None, None, None, unet, None)


# -- transformers ----------------------------------------------------------------------------------------------------


def sd3(dual: tuple[int, ...], qk_norm: str | None) -> Any:
    return diffusers.SD3Transformer2DModel(
        sample_size=32, in_channels=16, num_layers=2, num_attention_heads=2, joint_attention_dim=64,
        caption_projection_dim=128, pooled_projection_dim=64, out_channels=16, pos_embed_max_size=32,
        dual_attention_layers=dual, qk_norm=qk_norm,
    )  # fmt: skip


def sd3_inputs(_: Any) -> INPUTS:
    return {"x": drawn(ROWS, 16, 16, 16, seed=1), "t": torch.tensor([500.0, 100.0]), "text": drawn(ROWS, 9, 64, seed=2),
            "y": drawn(ROWS, 64, seed=3)}  # fmt: skip


def sd3_theirs(model: Any, given: INPUTS) -> Tensor:
    return model(given["x"], given["text"], given["y"], given["t"]).sample


def sd3_pipeline(model: Any) -> Any:
    return diffusers.StableDiffusion3Pipeline(model, None, None, None, None, None, None, None, None)


def flux(heads: int, doubles: int, singles: int) -> Callable[[], Any]:
    return lambda: diffusers.FluxTransformer2DModel(
        in_channels=64, num_layers=doubles, num_single_layers=singles, num_attention_heads=heads,
        joint_attention_dim=64, pooled_projection_dim=32, guidance_embeds=True,
    )  # fmt: skip


def flux_inputs(_: Any) -> INPUTS:
    return {"x": drawn(1, 16, 8, 8, seed=1), "t": torch.tensor([0.5]), "text": drawn(1, 9, 64, seed=2),
            "y": drawn(1, 32, seed=3), "guidance": torch.tensor([3.5])}  # fmt: skip


def flux_ours(root: Any, given: INPUTS) -> Tensor:
    return root(given["x"], given["t"], given["text"], given["y"], given["guidance"])


def flux_theirs(model: Any, given: INPUTS) -> Tensor:
    rows, channels, height, width = given["x"].shape
    cut = given["x"].reshape(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    places = torch.cartesian_prod(*(torch.arange(side) for side in (1, height // 2, width // 2))).float()
    found = model(
        cut.reshape(rows, -1, channels * 4), given["text"], given["y"], given["t"], places,
        torch.zeros(given["text"].shape[1], 3), given["guidance"],
    ).sample  # fmt: skip
    back = found.reshape(rows, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return back.reshape(given["x"].shape)


def flux_pipeline(model: Any) -> Any:
    return diffusers.FluxPipeline(*[None] * 6, model)


WIDE = {**FLUX, "num_heads": 24, "hidden_size": 3072, "depth": 1, "depth_single_blocks": 1}
"""diffusers takes kohya's names for Flux at its real width alone."""

UNETS = {"inputs": unet_inputs, "ours": unet_ours, "theirs": unet_theirs, "names": unet_names}
SD3S = {
    "inputs": sd3_inputs, "ours": unet_ours, "theirs": sd3_theirs, "names": comfy.utils.mmdit_to_diffusers,
    "pipeline": sd3_pipeline,
}  # fmt: skip
FLUXES = {
    "inputs": flux_inputs, "ours": flux_ours, "theirs": flux_theirs, "names": comfy.utils.flux_to_diffusers,
    "pipeline": flux_pipeline,
}  # fmt: skip
FLUX_FAMILY = FAMILIES["Flux.1 dev"]
TWINS: dict[str, Twin] = {
    "SD 1.5": Twin(FAMILIES["SD 1.5"], sd15, **UNETS, pipeline=sd_pipeline),
    "SDXL": Twin(FAMILIES["SDXL"], sdxl, **UNETS, pipeline=sdxl_pipeline),
    "SD 3": Twin(FAMILIES["SD 3"], lambda: sd3((), None), **SD3S),
    "SD 3.5": Twin(FAMILIES["SD 3.5"], lambda: sd3((0,), "rms_norm"), **SD3S),
    "Flux.1": Twin(FLUX_FAMILY, flux(2, 2, 2), **FLUXES, choices=("every linear layer",)),
    "Flux.1 wide": Twin(replace(FLUX_FAMILY, config=WIDE), flux(24, 1, 1), **FLUXES),
}


# -- what is measured ------------------------------------------------------------------------------------------------


def carried_over(twin: Twin, root: Any) -> Any:
    """The model of diffusers with the weights of the host's."""
    with torch.device("meta"):
        model = twin.make()
    weights, found = root.state_dict(), {}
    for name, known in twin.names(twin.family.config).items():
        key, place, order = (*((known,) if isinstance(known, str) else known), None, None)[:3]
        if key not in weights:  # the host's tables name what some sizes do not have
            key = key.replace("query_norm.weight", "query_norm.scale").replace("key_norm.weight", "key_norm.scale")
        if key in weights:
            weight = weights[key] if place is None else weights[key].narrow(*place)
            found[name] = weight if order is None else order(weight)
    wanted = model.state_dict().keys()
    model.load_state_dict({name: one for name, one in found.items() if name in wanted}, strict=True, assign=True)
    return model


def filled(root: Any) -> None:
    """Weights near unit scale at little cost, however wide the model."""
    noise = drawn(1 << 20, seed=0)
    for number, (name, parameter) in enumerate(root.state_dict(keep_vars=True).items()):
        size = parameter.numel()
        values = noise.roll(1009 * number).repeat(-(-size // len(noise)))[:size].reshape(parameter.shape)
        parameter.data = near_unit(name, values)


def measured(twin: Twin, choice: str) -> dict[str, Any]:
    base = twin.family.base()
    root = base.diffusion_model
    filled(root)
    model = carried_over(twin, root)
    given = twin.inputs(model)
    state = worn(root, core_lora.LoRAConfig(rank=4, alpha=6.0, targets=core_lora.TARGETS[choice]))
    keys = policy_module.shared_names(base, core_lora.lora_paths(state.weights))
    file = Path(tempfile.mkdtemp()) / "lora.safetensors"
    core_files.write_shared(file, *core_lora.lora_file(state, keys, {"modelspec.title": "a"}))
    ours, theirs = [twin.ours(root, given)], [twin.theirs(model, given)]
    lora = core_lora.LoRA.inject(root, state.config)
    lora.load(state.weights)
    ours.append(twin.ours(root, given))
    lora.eject()
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("diffusers").addHandler(handler)
    twin.pipeline(model).load_lora_weights(str(file.parent), weight_name=file.name)
    logging.getLogger("diffusers").removeHandler(handler)
    theirs.append(twin.theirs(model, given))
    effect = difference(ours[1], ours[0])
    return {
        "base": difference(ours[0], theirs[0]) / float(ours[0].std()),
        "difference": difference(ours[1], theirs[1]) / effect,
        "effect": effect / float(ours[0].std()),
        "layers": len(keys),
        "in_parts": sum(not isinstance(name, str) for name in keys.values()),
        "said": [line for line in said if "text_encoder" not in line and "CLIP" not in line],
    }


def worn(root: Any, config: Any) -> Any:
    """A LoRA on ``root`` whose every number says something."""
    state = core_lora.fresh_lora(root, config, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    weights = {k: torch.randn(v.shape, generator=generator) * (0.05 if "lora_B" in k else 0.25) / v.shape[1] ** 0.25
               for k, v in state.weights.items()}  # fmt: skip
    return core_lora.LoRAState(config, weights)


@torch.no_grad()
def main() -> None:
    results: dict[str, dict[str, Any]] = {}
    for name in NAMES:
        for choice in TWINS[name].choices:
            try:
                results.setdefault(name, {})[choice] = measured(TWINS[name], choice)
            except Exception:
                results.setdefault(name, {})[choice] = {"error": traceback.format_exc()}
        OUT.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
