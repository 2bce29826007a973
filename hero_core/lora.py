# SPDX-License-Identifier: Apache-2.0
"""The LoRA from its first draw to the shared file: what is learned of it, the layers that carry it, its names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .errors import HeroError
from .settings import Setting, check, setting

# What stands before the blocks and reads the text is no part of the picture's attention.
_HERE = r"(?i)(?!(.*\.)?(llm_adapter|txtfusion|txt_in)\.)"
_NAMES = r"(to_|add_|w\d?)?(q|k|v|o|kv|qkv|query|key|value|out|output|add_out|proj)(_proj|_linear|_layer|_t)?(\.0)?"
_SELF_AND_CROSS = rf"(.*\.)?[^.]*(attn|attention)[^.]*[._]{_NAMES}|(.*\.)?single_blocks\.\d+\.linear[12]"
_FEED_FORWARD = r"(.*\.)?\d+\.(.*\.)?([a-z]+_)?(ffn?|mlp|feed_forward)[^.]*(\..*)?"

ATTENTION = rf"{_HERE}({_SELF_AND_CROSS})"
"""Every query, key, value and output projection of self and cross attention (HERO, appendix B), by the names that the
families of models give them. Flux's single blocks have theirs and the feed-forward in two layers."""

TARGETS = {
    "attention": ATTENTION,
    "attention and feed-forward": rf"{_HERE}({_SELF_AND_CROSS}|{_FEED_FORWARD})",
    "every linear layer": ".*",
}
"""What the LoRA may change, by name: the paper's choice first."""


FORMER = {r"(.*\.)?attn\d*\.(to_q|to_k|to_v|to_out\.0)": "attention"}
"""What stood for a name before, as sessions keep it: of the models that could be learned on then the same layers."""

TARGETS_WIDGET = Setting(
    "attention",
    "The layers that get a LoRA. attention: every query, key, value and output projection, as in the paper. attention "
    "and feed-forward: those and the layers between them, about twice the file. every linear layer: also "
    "what takes in time and text. Fixed once the session has begun.",
    choices=tuple(TARGETS),
)
PATTERN_WIDGET = Setting(
    "",
    "For experts: a regular expression on whole module paths, such as .+attn2.+ in the place of targets. Empty: "
    "targets counts. Fixed once the session has begun.",
)


def targets(choice: str) -> str:
    """The pattern of a name of :data:`TARGETS`, or ``choice`` itself, a regular expression on whole module paths."""
    pattern = TARGETS.get(choice, choice)
    try:
        re.compile(pattern)
    except re.error as error:
        raise HeroError(
            f"The LoRA targets {choice!r} are no regular expression ({error}); they are one, on module paths, or "
            f"{', '.join(TARGETS)}."
        ) from error
    return pattern


def called(pattern: str) -> str:
    """The name of a pattern of :data:`TARGETS`, of today or of before; a pattern of one's own as it is."""
    return FORMER.get(pattern) or next((name for name, one in TARGETS.items() if one == pattern), pattern)


@dataclass(frozen=True)
class LoRAConfig:
    """``rank`` and ``alpha`` as in LoRA (scale = alpha / rank); ``targets``: a regular expression on module paths."""

    rank: int = setting(4, "Size of the LoRA: 4 in the paper. Fixed once the session has begun.", least=1, high=128)
    alpha: float = setting(
        4.0, "The LoRA counts alpha / rank times; usually equal to rank. Fixed once the session has begun.",
        above=0, low=0.1, high=128, step=0.1,
    )  # fmt: skip
    targets: str = setting(ATTENTION, "The layers that get a LoRA, as a regular expression on their paths.")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class LoRAState:
    """A LoRA between two updates: float32 CPU tensors under ``<module path>.lora_A.weight`` / ``.lora_B.weight``.

    ``optimizer`` holds the optimiser's state for each of them, under ``<weight's key>:<name>``. ``fast`` are the
    weights that are trained, where ``weights`` are their slow average; else empty. ``memory`` is whatever else the
    update rule carries from round to round (a critic, say); another rule forgets it.
    """

    config: LoRAConfig
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    fast: dict[str, Tensor] = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)


class LoRA:
    """Adapters on a model's linear layers: each adds ``alpha / rank * up(down(x))`` to what its layer returns.

    They are forward hooks: the module tree, its names and its weights stay the model's own, whatever kind of linear
    layer each of them is. :meth:`eject` takes them off.
    """

    def __init__(self, config: LoRAConfig, layers: Mapping[str, nn.Module]) -> None:
        self.config, self.enabled = config, True
        self._adapters = {path: _Adapter(self, layer, config.rank) for path, layer in layers.items()}

    @classmethod
    def inject(cls, root: nn.Module, config: LoRAConfig) -> LoRA:
        """Adapters that add nothing yet on every target of ``root``, on the CPU; see :meth:`load` and :meth:`to`."""
        return cls(config, _targets(root, config))

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by :class:`LoRAState` key, float32."""
        pairs = {}
        for path, adapter in self._adapters.items():
            pairs[f"{path}.lora_A.weight"] = adapter.down
            pairs[f"{path}.lora_B.weight"] = adapter.up
        return pairs

    def to(self, device: torch.device) -> None:
        """Move the parameters to ``device``."""
        for parameter in self.parameters().values():
            parameter.data = parameter.data.to(device)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy ``weights`` into the adapters; raises :class:`HeroError` where they were made for another model."""
        parameters = self.parameters()
        if parameters.keys() != weights.keys():
            raise HeroError(
                f"The saved LoRA has {len(weights)} weights and this model asks for {len(parameters)} others: "
                "it belongs to another kind of checkpoint. Load the first checkpoint again, or start a new session."
            )
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.copy_(weights[key])

    def weights(self) -> dict[str, Tensor]:
        """A float32 CPU copy of the weights, as :class:`LoRAState` keeps them."""
        return {key: p.detach().to("cpu", torch.float32, copy=True) for key, p in self.parameters().items()}

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base model, for as long as the context lasts."""
        self.enabled = False
        try:
            yield
        finally:
            self.enabled = True

    @contextmanager
    def wearing(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Other weights, for as long as the context lasts; the adapters' own are put aside and not copied."""
        own = {parameter: parameter.data for parameter in self.parameters().values()}
        try:
            for key, parameter in self.parameters().items():
                parameter.data = weights[key].to(parameter.data)
            yield
        finally:
            for parameter, data in own.items():
                parameter.data = data

    def eject(self) -> None:
        """Take the adapters off."""
        for adapter in self._adapters.values():
            adapter.hook.remove()


class _Adapter:
    """The two factors of one layer, and the hook that adds their product."""

    def __init__(self, lora: LoRA, layer: Any, rank: int) -> None:
        self.lora, self.scale = lora, lora.config.alpha / rank
        self.down = nn.Parameter(torch.zeros(rank, layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))
        self.hook = layer.register_forward_hook(self)

    def __call__(self, _layer: nn.Module, inputs: tuple[Tensor, ...], result: Tensor) -> Tensor:
        if not self.lora.enabled:
            return result
        change = linear(linear(inputs[0].to(self.down.dtype), self.down), self.up) * self.scale
        return (result + change).to(result.dtype)


def fresh_lora(root: nn.Module, config: LoRAConfig, generator: torch.Generator) -> LoRAState:
    """An untrained LoRA for ``root``: A ~ N(0, 1 / rank^2), B = 0, so that the policy starts as the base model."""
    weights = {}
    for path, layer in _targets(root, config).items():
        down = torch.randn(config.rank, layer.in_features, generator=generator) / config.rank
        weights[f"{path}.lora_A.weight"] = down
        weights[f"{path}.lora_B.weight"] = torch.zeros(layer.out_features, config.rank)
    return LoRAState(config, weights)


def is_linear(module: nn.Module) -> bool:
    """Whether a layer maps ``in_features`` to ``out_features``, be its weight plain or quantised."""
    return isinstance(getattr(module, "in_features", None), int) and isinstance(
        getattr(module, "out_features", None), int
    )


def _targets(root: nn.Module, config: LoRAConfig) -> dict[str, Any]:
    """The linear layers that the LoRA changes, by path; raises :class:`HeroError` where there is none."""
    pattern = re.compile(config.targets)
    linears = ((path, module) for path, module in root.named_modules() if is_linear(module))
    found = {path: module for path, module in linears if pattern.fullmatch(path)}
    if not found:
        raise HeroError(
            f"No layer of {type(root).__name__} matches the LoRA targets {called(config.targets)!r}: choose others on "
            "HERO Session, under another session name."
        )
    return found


def lora_paths(weights: Mapping[str, Tensor]) -> list[str]:
    """The module paths that a LoRA's weights belong to, in order."""
    return [key.removesuffix(".lora_A.weight") for key in weights if key.endswith(".lora_A.weight")]


class LoRAFile(NamedTuple):
    """A LoRA as other programs read it: ``<key>.lora_down.weight``, ``.lora_up.weight``, ``.alpha``, and metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


class Part(NamedTuple):
    """A layer of another program that is the outputs ``rows`` ``(n,)`` of one of ours, in its order: its name there."""

    name: str
    rows: Tensor


Names = str | tuple[Part, ...]
"""What a layer is called in a shared file: by one name, in kohya's format, or in parts, in that of PEFT."""


def lora_file(state: LoRAState, keys: Mapping[str, Names], metadata: Mapping[str, str]) -> LoRAFile:
    """The LoRA as a shared file; ``keys`` maps each module path to its shared name (see :func:`kohya_key`).

    The format of PEFT has no alpha: there alpha / rank is in the weights.
    """
    tensors: dict[str, Tensor] = {}
    for module in lora_paths(state.weights):
        down, up = state.weights[f"{module}.lora_A.weight"], state.weights[f"{module}.lora_B.weight"]
        names = keys[module]
        if isinstance(names, str):
            alpha = torch.tensor(state.config.alpha)
            tensors |= {f"{names}.lora_down.weight": down, f"{names}.lora_up.weight": up, f"{names}.alpha": alpha}
            continue
        for part in names:
            tensors[f"{part.name}.lora_A.weight"] = down.clone()
            tensors[f"{part.name}.lora_B.weight"] = up[part.rows] * (state.config.alpha / state.config.rank)
    network = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(state.config.rank),
        "ss_network_alpha": str(state.config.alpha),
    }
    return LoRAFile(tensors, {**network, **metadata})


def kohya_key(path: str, unet_config: Mapping[str, Any]) -> str:
    """The kohya name of a module in a Stable Diffusion UNet (the LDM layout), the name that most programs read.

    ``input_blocks.1.1.transformer_blocks.0.attn1.to_q`` becomes
    ``lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q``; ``unet_config`` gives ``num_res_blocks``
    (an int or one a level). What is in no transformer keeps its path, as kohya names it on SDXL.
    """
    kind, *place, inner = path.split(".", 2 if path.startswith("middle_block.") else 3)
    if place[-1:] != ["1"]:
        return "lora_unet_" + path.replace(".", "_")
    if kind == "middle_block":
        return "lora_unet_" + f"mid_block.attentions.0.{inner}".replace(".", "_")
    per_level = unet_config["num_res_blocks"]
    levels = len(unet_config["channel_mult"])
    counts = [per_level] * levels if isinstance(per_level, int) else list(per_level)
    level, position = _level(int(place[0]), kind, counts)
    side = {"input_blocks": "down_blocks", "output_blocks": "up_blocks"}[kind]
    return "lora_unet_" + f"{side}.{level}.attentions.{position}.{inner}".replace(".", "_")


def _level(number: int, kind: str, res_blocks: list[int]) -> tuple[int, int]:
    # Input blocks: one convolution, then a level's res blocks and its downsampler. Output blocks: one more res block a
    # level, deepest level first.
    sizes = [count + 1 for count in (res_blocks if kind == "input_blocks" else reversed(res_blocks))]
    position = number - 1 if kind == "input_blocks" else number
    for level, size in enumerate(sizes):
        if position < size:
            return level, position
        position -= size
    raise HeroError(f"{kind}.{number} lies outside a UNet with {len(res_blocks)} levels.")
