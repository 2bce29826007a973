# SPDX-License-Identifier: Apache-2.0
"""The LoRA: how it begins, how its optimiser goes on from round to round, and the file that other programs read."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from families import FAMILIES
from safetensors.torch import load_file
from torch import Tensor
from toy import SHAPE, ToyPolicy

from hero_core.errors import HeroError
from hero_core.lora import (
    ATTENTION,
    FORMER,
    TARGETS,
    LoRA,
    LoRAConfig,
    LoRAState,
    Part,
    called,
    kohya_key,
    lora_file,
    lora_paths,
    targets,
)
from hero_core.seeding import generator
from hero_core.store.files import write_shared
from hero_core.update.common import LoRAOptimizer, OptimizerSettings


def random(config: LoRAConfig, policy: ToyPolicy) -> LoRAState:
    """A LoRA whose every number says something."""
    drawn, fresh = generator("weights"), policy.fresh_lora(config, generator(0))
    return LoRAState(config, {key: 0.3 * torch.randn(one.shape, generator=drawn) for key, one in fresh.weights.items()})


# -- before the first round ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_fresh_a_is_unit_noise_over_the_rank_and_b_is_zero(rank: int) -> None:
    fresh = ToyPolicy().fresh_lora(LoRAConfig(rank=rank), generator("fresh")).weights
    drawn = generator("fresh")
    for path in lora_paths(fresh):
        expected = torch.randn(rank, 4, generator=drawn) / rank
        torch.testing.assert_close(fresh[f"{path}.lora_A.weight"], expected)
        assert torch.equal(fresh[f"{path}.lora_B.weight"], torch.zeros(4, rank))


# -- the optimiser over rounds -------------------------------------------------------------------------------------


class Worn:
    """What :class:`LoRAOptimizer` asks of an actor: one LoRA of one weight."""

    def __init__(self, weight: Tensor) -> None:
        self.lora, self.weight = self, torch.nn.Parameter(weight.clone())

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {"w": self.weight}

    def weights(self) -> dict[str, Tensor]:
        return {"w": self.weight.detach().clone()}

    def load(self, weights: dict[str, Tensor]) -> None:
        self.weight.data = weights["w"].clone()


GRADIENTS = torch.randn(6, 5, generator=generator("gradients")) * torch.tensor([0.1, 3.0, 0.5, 9.0, 1.0, 0.2])[:, None]


@pytest.mark.parametrize("max_grad_norm", [0.7, 100.0])
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_the_optimiser_goes_on_over_rounds_as_one_plain_adamw(rounds: int, max_grad_norm: float) -> None:
    settings = OptimizerSettings(lr=0.05, weight_decay=0.1, max_grad_norm=max_grad_norm)
    state: Any = LoRAState(LoRAConfig(), {"w": torch.ones(5)})
    for part in GRADIENTS.chunk(rounds):
        optimizer = LoRAOptimizer(Worn(state.weights["w"]), state, settings)  # type: ignore[arg-type]
        for gradient in part:
            optimizer.actor.lora.parameters()["w"].grad = gradient.clone()
            optimizer.step()
        state = optimizer.state()
    torch.testing.assert_close(state.weights["w"], adamw(0.05, 0.1, max_grad_norm), rtol=1e-5, atol=1e-6)


def adamw(lr: float, decay: float, bound: float) -> Tensor:
    """Decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2) on gradients of a bounded norm, in float64."""
    w, m, v = torch.ones(5, dtype=torch.float64), torch.zeros(5).double(), torch.zeros(5).double()
    for t, gradient in enumerate(GRADIENTS.double(), 1):
        g = gradient * min(1.0, bound / float(gradient.norm()))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - lr * decay * w - lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    return w.float()


# -- the file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "alpha"), [(4, 4.0), (8, 2.0), (2, 3.0)])
def test_the_file_merged_by_hand_is_the_policy(tmp_path: Path, rank: int, alpha: float) -> None:
    """``W + up down alpha / rank``, with alpha and rank as the file tells them."""
    policy = ToyPolicy()
    lora = random(LoRAConfig(rank=rank, alpha=alpha), policy)
    x, sigma = torch.randn(4, *SHAPE, generator=generator("x")), torch.ones(4)
    worn = policy.run(lambda actor: actor.denoise(x, sigma), lora=lora, rows=4, grad=False)
    keys = policy.lora_keys(lora_paths(lora.weights))
    write_shared(tmp_path / "lora.safetensors", *lora_file(lora, keys, {}))
    file = load_file(tmp_path / "lora.safetensors")
    for path, key in keys.items():
        down, up = file[f"{key}.lora_down.weight"], file[f"{key}.lora_up.weight"]
        policy.net.get_submodule(path).weight.data += up @ down * float(file[f"{key}.alpha"]) / len(down)
    merged = policy.run(lambda a: a.denoise(x, sigma), lora=policy.fresh_lora(LoRAConfig(), generator(0)), rows=4,
                        grad=False)  # fmt: skip
    torch.testing.assert_close(merged, worn, rtol=1e-4, atol=1e-5)
    assert len(file) == 3 * len(keys) == 3 * 8


def test_a_layer_that_others_have_in_parts_is_written_in_their_order_with_alpha_in_its_weights() -> None:
    down, up = torch.arange(6.0).reshape(2, 3), torch.arange(8.0).reshape(4, 2)
    state = LoRAState(LoRAConfig(rank=2, alpha=3.0), {"qk.lora_A.weight": down, "qk.lora_B.weight": up})
    parts = (Part("t.q", torch.tensor([0, 1])), Part("t.k", torch.tensor([3, 2])))
    tensors, metadata = lora_file(state, {"qk": parts}, {"more": "yes"})
    assert {key: value.tolist() for key, value in tensors.items()} == {
        "t.q.lora_A.weight": down.tolist(), "t.q.lora_B.weight": [[0.0, 1.5], [3.0, 4.5]],
        "t.k.lora_A.weight": down.tolist(), "t.k.lora_B.weight": [[9.0, 10.5], [6.0, 7.5]],
    }  # fmt: skip
    assert len({tensor.data_ptr() for tensor in tensors.values()}) == 4, "the format forbids shared memory"
    assert metadata["more"] == "yes"


def test_what_is_in_no_transformer_of_a_unet_keeps_its_path() -> None:
    ldm = FAMILIES[next(iter(FAMILIES))].ldm
    paths = ("time_embed.0", "label_emb.0.2", "input_blocks.1.0.emb_layers.1", "middle_block.2.emb_layers.1")
    assert [kohya_key(path, ldm) for path in paths] == [f"lora_unet_{path.replace('.', '_')}" for path in paths]
    assert kohya_key("middle_block.1.proj_in", ldm) == "lora_unet_mid_block_attentions_0_proj_in"


# -- its names, against the mapping of diffusers' own loader ----------------------------------------------------------


def diffusers_names(config: dict[str, Any], paths: list[str]) -> dict[str, str]:
    """Where diffusers puts each LDM weight when it loads a checkpoint: told by a number in the place of the weight."""
    with torch.device("meta"):
        whole = dict(UNet2DConditionModel(**config).config)
    count = 3 * len(config["block_out_channels"])
    blocks = [f"{side}.{i}.0" for side in ("input_blocks", "output_blocks") for i in range(count)]
    others = [*blocks, "middle_block.0", "middle_block.2", "label_emb.0.0", "label_emb.0.2"]
    known = {f"{name}.{kind}": torch.tensor(-1) for name in others for kind in ("weight", "bias")}
    known |= {f"{path}.weight": torch.tensor(number) for number, path in enumerate(paths)}
    loaded = convert_ldm_unet_checkpoint({f"model.diffusion_model.{name}": one for name, one in known.items()}, whole)
    return {paths[int(one)]: name.removesuffix(".weight") for name, one in loaded.items() if int(one) >= 0}


@pytest.mark.parametrize("name", FAMILIES)
def test_diffusers_loads_each_of_our_names_into_the_layer_that_was_trained(name: str) -> None:
    family = FAMILIES[name]
    paths = family.attention_paths()
    places = diffusers_names(family.diffusers, paths)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**family.diffusers)
    layers = {name for name, one in unet.named_modules() if ".attn" in name and isinstance(one, torch.nn.Linear)}
    assert set(places.values()) == layers, "every attention of the family is asked about"
    tensors = {}
    for number, path in enumerate(paths):
        key = kohya_key(path, family.ldm)
        tensors[f"{key}.lora_down.weight"] = torch.full((2, 3), float(number))
        tensors[f"{key}.lora_up.weight"] = torch.full((3, 2), float(number))
        tensors[f"{key}.alpha"] = torch.tensor(0.5)
    loaded, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(tensors)
    found = {name: int(one[0, 0]) for name, one in loaded.items() if name.endswith(".down.weight")}
    assert {_layer(name): paths[number] for name, number in found.items()} == {places[path]: path for path in paths}
    assert set(alphas.values()) == {0.5}


def test_levels_of_their_own_sizes_are_found_from_the_deepest_up() -> None:
    """Levels of 1, 2 and 3 blocks: 2 + 3 + 4 places on the way down, 4 + 3 + 2 on the way up."""
    uneven = {"num_res_blocks": [1, 2, 3], "channel_mult": (1, 2, 4)}

    def places(kind: str, numbers: range) -> list[str]:
        names = (kohya_key(f"{kind}.{number}.1.proj_in", uneven) for number in numbers)
        return [name.removeprefix("lora_unet_").removesuffix("_proj_in") for name in names]

    down = [(level, i) for level, size in enumerate((1, 2, 3)) for i in range(size + 1)]
    up = [(level, i) for level, size in enumerate((3, 2, 1)) for i in range(size + 1)]
    assert places("input_blocks", range(1, 10)) == [f"down_blocks_{level}_attentions_{i}" for level, i in down]
    assert places("output_blocks", range(9)) == [f"up_blocks_{level}_attentions_{i}" for level, i in up]


def _layer(name: str) -> str:
    """``unet.<attention>.processor.to_q_lora.down.weight``, as diffusers calls a loaded weight, to the layer's path."""
    path = name.removeprefix("unet.").replace(".processor", "").removesuffix("_lora.down.weight")
    return path + ".0" if path.endswith(".to_out") else path


# -- the layers --------------------------------------------------------------------------------------------------------


class _Packed(torch.nn.Module):
    """A linear layer as quantised files bring it: it has no float weight and is no ``nn.Linear``."""

    in_features, out_features = 3, 2

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.register_buffer("codes", torch.tensor([[1, 0, 2], [0, 3, 1]], dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.codes.to(self.dtype).T  # type: ignore[operator]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_linear_layer_is_changed_by_the_product_in_float32_and_keeps_its_dtype(dtype: torch.dtype) -> None:
    net = torch.nn.ModuleDict({"attn": torch.nn.ModuleDict({"to_q": _Packed(dtype)})})
    down, up = torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[1.0], [-2.0]])
    x = torch.tensor([[1.0, 2.0, 4.0]], dtype=dtype)
    lora = LoRA.inject(net, LoRAConfig(rank=1, alpha=0.5))
    lora.load({"attn.to_q.lora_A.weight": down, "attn.to_q.lora_B.weight": up})
    worn, names = net["attn"]["to_q"](x), list(net.state_dict())  # type: ignore[index]
    lora.eject()
    plain = net["attn"]["to_q"](x)  # type: ignore[index]
    assert plain.tolist() == [[9.0, 10.0]]
    assert torch.equal(worn, (plain.float() + 0.5 * (x.float() @ down.T) @ up.T).to(dtype))
    assert worn.dtype == dtype
    assert names == list(net.state_dict()) == ["attn.to_q.codes"]


def test_the_names_of_targets_are_patterns_and_a_pattern_stands_for_itself() -> None:
    paths = {
        "transformer_blocks.3.attn.to_q": "attention",
        "transformer_blocks.3.attn.to_out.0": "attention",
        "double_blocks.0.img_mlp.2": "attention and feed-forward",
        "layers.7.feed_forward.w1": "attention and feed-forward",
        "t_embedder.mlp.0": "every linear layer",
        "blocks.0.adaln_modulation_self_attn.1": "every linear layer",
        "llm_adapter.blocks.0.self_attn.q_proj": "every linear layer",
    }
    first = {path: next(name for name in TARGETS if re.fullmatch(targets(name), path)) for path in paths}
    assert first == paths
    assert targets(r".*to_q") == r".*to_q"
    with pytest.raises(HeroError, match=r"'\(' are no regular expression"):
        targets("(")


KNOWN = {
    "0b1ec5f7": "attention", "7b0c13e5": "attention", "e61b3063": "attention and feed-forward",
    "12aca9f6": "every linear layer",
}  # fmt: skip
"""What sessions that people have may hold: never take a line out."""


def test_every_pattern_that_a_name_ever_stood_for_is_known_by_that_name() -> None:
    """Sessions keep the pattern: where a name gets another one, the old one goes into FORMER, and a line in here."""
    patterns = (*FORMER, *TARGETS.values())
    assert {hashlib.sha256(pattern.encode()).hexdigest()[:8]: called(pattern) for pattern in patterns} == KNOWN
    assert called(".*to_q") == ".*to_q"


@pytest.mark.parametrize("name", FAMILIES)
def test_stable_diffusion_has_the_targets_of_the_paper_and_no_others(name: str) -> None:
    attention = FAMILIES[name].attention_paths()
    beside = [path.replace("attn1", "ff").replace("attn2", "ff") for path in attention]
    assert [path for path in [*attention, *beside] if re.fullmatch(ATTENTION, path)] == attention
