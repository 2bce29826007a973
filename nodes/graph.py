# SPDX-License-Identifier: Apache-2.0
"""What a queued workflow says of a node: where its inputs come from, by sockets and types, and what comes after it.

Pure functions over ComfyUI's API format. What cannot be known is None: nothing is better than something false.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

WEIGHTS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
"""How the names of model files end."""

TINY = "HERO tiny model"
"""What the checkpoint in the pack is called; of its other kinds the kind stands behind."""


@dataclass(frozen=True)
class Kind:
    """A class of nodes: the types of its ``inputs`` and of its ``outputs``, which of them it must have, its title."""

    title: str
    inputs: Mapping[str, str]
    outputs: tuple[tuple[str, str], ...]
    """Type and name of each."""
    required: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    """The inputs for running text, of many lines."""


@dataclass(frozen=True)
class Graph:
    """A queued workflow; ``kind`` tells what is known of a class of nodes."""

    nodes: Mapping[str, Mapping[str, Any]]
    kind: Callable[[str], Kind | None]
    running: frozenset[str] | None = None
    """The end nodes that the host runs; None where that is not known."""
    _below: dict[str, set[str]] = field(default_factory=dict)

    def class_of(self, node_id: str) -> str:
        """The class of a node; empty where it is not there."""
        return str(self.nodes.get(node_id, {}).get("class_type", ""))

    def inputs(self, node_id: str) -> Mapping[str, Any]:
        """Widgets and wires of a node."""
        return self.nodes.get(node_id, {}).get("inputs", {})

    def kind_of(self, node_id: str) -> Kind | None:
        """The kind of a node."""
        return self.kind(self.class_of(node_id))

    def title(self, node_id: str) -> str:
        """A node's name for people: as they named it, with its number."""
        kind, meta = self.kind_of(node_id), self.nodes.get(node_id, {}).get("_meta", {})
        return f"{meta.get('title') or (kind.title if kind else self.class_of(node_id))} (node {node_id})"

    def literal(self, value: Any) -> Any:
        """The value of an input, also where it comes over a link from a stock primitive; None where nobody knows it."""
        source = source_of(value)
        if source is None:
            return value
        kind, inputs = self.class_of(source), self.inputs(source)
        if kind.startswith("Primitive") and "value" in inputs:
            return self.literal(inputs["value"])
        if kind == "CustomCombo" and value[1] == 0:  # the other output is the choice's number
            return self.literal(inputs.get("choice"))
        if kind == "StringConcatenate":
            parts = [self.literal(inputs.get(name)) for name in ("string_a", "string_b", "delimiter")]
            return parts[0] + parts[2] + parts[1] if all(isinstance(part, str) for part in parts) else None
        return None

    def below(self, node_id: str) -> set[str]:
        """Every node that takes something of this one, by whatever way."""
        if not self._below:
            for name in self.nodes:
                for source in filter(None, map(source_of, self.inputs(name).values())):
                    self._below.setdefault(source, set()).add(name)
        found: set[str] = set()
        waiting = [node_id]
        while waiting:
            more = self._below.get(waiting.pop(), set()) - found
            found |= more
            waiting += more
        return found


def source_of(value: Any) -> str | None:
    """The node that an input of a queued workflow is wired to; None for a widget's value, which may be a list too."""
    wired = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int)
    return str(value[0]) if wired else None


# -- words ------------------------------------------------------------------------------------------------------------


def words(graph: Graph, node_id: str) -> dict[str, str]:
    """``checkpoint``, ``loras``, ``prompt`` and ``negative`` of a node that takes a model and two conditionings.

    Only what is known for certain is there.
    """
    inputs = graph.inputs(node_id)
    found: dict[str, str | None] = {name: None for name in ("checkpoint", "loras", "prompt", "negative")}
    found["checkpoint"], loras = _model(graph, inputs.get("model"), 0)
    found["loras"] = None if loras is None else ", ".join(loras)
    found["prompt"] = _text(graph, inputs.get("positive"), 0)
    found["negative"] = _text(graph, inputs.get("negative"), 0)
    # Half a character is no text: no file could be written with it.
    return {key: word.encode("utf-8", "replace").decode("utf-8") for key, word in found.items() if word is not None}


DEEPEST = 200
"""More nodes in a row than any workflow has: a circle."""


def _model(graph: Graph, link: Any, depth: int) -> tuple[str | None, list[str] | None]:
    """The checkpoint behind a MODEL link, and the LoRAs on the way with their strengths."""
    source = source_of(link)
    kind = graph.kind_of(source) if source is not None else None
    if source is None or kind is None or depth > DEEPEST:
        return None, None
    inputs = graph.inputs(source)
    if graph.class_of(source) == "HERO_TinyModel":
        chosen = graph.literal(inputs.get("kind", "unet"))
        return None if chosen is None else TINY if chosen == "unet" else f"{TINY} ({chosen})", []
    models = [name for name, type in kind.inputs.items() if type == "MODEL"]
    if not models:
        files = [value for value in map(graph.literal, inputs.values()) if _is_file(value)]
        return (files[0], []) if len(files) == 1 else (None, None)
    wired = [inputs[name] for name in models if name in inputs]
    if len(wired) != 1:
        return None, None
    checkpoint, loras = _model(graph, wired[0], depth + 1)
    mine = _loras(graph, inputs)
    return checkpoint, None if loras is None or mine is None else [*loras, *mine]


def between(graph: Graph, node_id: str) -> list[str]:
    """The titles of the nodes that a MODEL goes through on its way from its loader to this node, the nearest first."""
    found: list[str] = []
    source = source_of(graph.inputs(node_id).get("model"))
    while source is not None and len(found) < DEEPEST:
        kind, inputs = graph.kind_of(source), graph.inputs(source)
        models = [name for name, type in kind.inputs.items() if type == "MODEL" and name in inputs] if kind else []
        if not models:
            break
        found.append(graph.title(source))
        source = source_of(inputs[models[0]])
    return found


def _loras(graph: Graph, inputs: Mapping[str, Any]) -> list[str] | None:
    """The LoRA of a node between checkpoint and sampler, as ``name (strength)``; None where it cannot be read."""
    names = [name for name in inputs if "lora" in name.lower() and "strength" not in name.lower()]
    files = [graph.literal(inputs[name]) for name in names]
    if not names:
        return []
    strength = graph.literal(inputs.get("strength_model", inputs.get("strength")))
    if len(files) != 1 or not _is_file(files[0]) or isinstance(strength, bool) or not isinstance(strength, int | float):
        return None
    return [f"{files[0]} ({strength:g})"] if strength else []


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and value.lower().endswith(WEIGHTS)


def _text(graph: Graph, link: Any, depth: int) -> str | None:
    """The text behind a CONDITIONING link."""
    source = source_of(link)
    kind = graph.kind_of(source) if source is not None else None
    if source is None or kind is None or depth > DEEPEST or graph.class_of(source) == "ConditioningZeroOut":
        return None
    inputs = graph.inputs(source)
    wired = [name for name, type in kind.inputs.items() if type == "CONDITIONING" and name in inputs]
    if not wired:
        return _encoded(graph, kind, inputs)
    outputs = [name for type, name in kind.outputs if type == "CONDITIONING"]
    slot = link[1]
    if len(outputs) > 1:  # a pair goes through: what comes out under a name came in under it
        name = kind.outputs[slot][1] if isinstance(slot, int) and 0 <= slot < len(kind.outputs) else None
        return _text(graph, inputs[name], depth + 1) if name in wired else None
    if len(wired) > 1 and any(type != "CONDITIONING" for type in kind.inputs.values()):
        return None  # a widget may weigh one against the other, or choose
    texts = [_text(graph, inputs[name], depth + 1) for name in wired]
    return _distinct(texts)


def _encoded(graph: Graph, kind: Kind, inputs: Mapping[str, Any]) -> str | None:
    """The text that a text encoder gets: of all its text fields."""
    if "CLIP" not in kind.inputs.values():
        return None
    names = [name for name in inputs if name in kind.texts]
    names = names or [name for name in inputs if kind.inputs.get(name) == "STRING"]
    return _distinct([graph.literal(inputs[name]) for name in names]) if names else None


def _distinct(texts: list[Any]) -> str | None:
    if not all(isinstance(text, str) for text in texts):
        return None
    return "\n".join(dict.fromkeys(text for text in texts if text))


# -- what comes after a round ------------------------------------------------------------------------------------------


def cannot_run(graph: Graph, node_id: str) -> str | None:
    """Why Save Round will not run after the round that this node begins, so that its marks would lead to nothing; None
    where it can. A node that leads to no Save Round is passed over."""
    node_id = _begun(graph, node_id)
    saves = _saves(graph, node_id)
    for name in sorted(graph.below(node_id)):
        kind = graph.kind_of(name)
        if kind is None or not graph.class_of(name).startswith("HERO_"):
            continue
        lacking = sorted(kind.required - graph.inputs(name).keys())
        if lacking and (graph.below(name) | {name}) & saves:
            return (
                f"{graph.title(name)} cannot run: nothing comes into its {' and '.join(lacking)}, as a node before it "
                "is bypassed, muted or not wired. So Save Round does not run either, and marks would lead to nothing. "
                f"Put that node back, or leave {graph.title(name)} out as well: mute it."
            )
    for name in sorted(saves):
        if not {"reward", "lora", "mixture"} & graph.inputs(name).keys():
            return (
                f"{graph.title(name)} has nothing to save: wire an Embedding Trainer, a LoRA update or a Latent "
                "Mixture into it, or put back the one that is muted."
            )
    return None


def left_out(graph: Graph, node_id: str) -> list[str]:
    """What the marks on this node's round will not teach, as sentences for the person who is about to give them."""
    saves = _saves(graph, _begun(graph, node_id))
    if not saves:
        return [
            "No Save Round follows in this workflow: the marks are kept, and nothing is learned for good without it."
        ]
    if graph.running is not None and not graph.running & saves:
        return [
            f"{graph.title(min(saves))} does not run this time: only a part of the workflow was queued, or ComfyUI "
            "refused a node before it (it is marked red). The marks are kept; queue the whole workflow to go on."
        ]
    if not saves_lora(graph, node_id):
        return ["No LoRA update is wired into Save Round: the checkpoint learns nothing from these marks."]
    return []


def saves_lora(graph: Graph, node_id: str) -> bool:
    """Whether the round that this node begins, or shows, ends in a LoRA file."""
    return any("lora" in graph.inputs(name) for name in _saves(graph, _begun(graph, node_id)))


def _begun(graph: Graph, node_id: str) -> str:
    """The node whose rollout this one takes; itself where it takes none."""
    return source_of(graph.inputs(node_id).get("rollout")) or node_id


def _saves(graph: Graph, node_id: str) -> set[str]:
    """The Save Round nodes of this node's session."""
    session = graph.inputs(node_id).get("session")
    after = graph.below(node_id)
    return {
        name for name in graph.nodes
        if graph.class_of(name) == "HERO_SaveRound"
        and (name in after or (session is not None and graph.inputs(name).get("session") == session))
    }  # fmt: skip
