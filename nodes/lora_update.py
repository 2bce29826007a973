# SPDX-License-Identifier: Apache-2.0
"""What the nodes that train the LoRA have in common."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..hero_core.errors import HeroError
from ..hero_core.loop import marked_round, update_lora
from ..hero_core.preference import RewardResult
from ..hero_core.store import Session
from ..hero_core.update.common import OptimizerSettings, check_steps
from .comfy_host import Notes, comfy_progress, normal_mode
from .comfy_memory import rows_to_learn
from .comfy_policy import with_lora
from .graph import Graph, cannot_run, saves_lora, source_of
from .sockets import Drawn, LoRAType, RewardType, RolloutType, Updated
from .widgets import widgets

FIRST = ("lr", "batch", "epochs", "kl_coef")
MORE = ("scored_steps", "clip", "advantage_clip", "kl_target", "weight_decay", "max_grad_norm", "micro_batch")
"""Widgets of the nodes that learn from recorded steps."""


def policy_gradient_inputs(kind: type, *own: str) -> list:
    """Sockets and widgets of such a node; ``own``: the advanced settings that its rule alone has."""
    return [
        RolloutType.Input("rollout", tooltip="From HERO Sampler."),
        RewardType.Input("reward", tooltip="From Embedding Trainer."),
        *widgets(kind, *FIRST, more=(*MORE, *own)),
    ]


def learned_outputs() -> list:
    """The sockets of :func:`learned`."""
    return [
        io.Model.Output(display_name="model", tooltip="The checkpoint with the LoRA after this round."),
        LoRAType.Output(display_name="lora", tooltip="For Save Round."),
    ]


def learned(drawn: Drawn, reward: RewardResult, settings: OptimizerSettings) -> io.NodeOutput:
    """Train the LoRA on the round by the rule whose ``settings`` these are."""
    with normal_mode():
        notes = Notes()
        if not reward.skip:
            settings = replace(settings, micro_batch=rows_to_learn(drawn, settings, notes))
        result = update_lora(drawn.session, drawn.policy, drawn.rollout, reward, settings, comfy_progress())
        if result.skip:
            notes(f"No step was taken: {result.skip}")
        return io.NodeOutput(with_lora(drawn.policy.model, result.state), Updated(drawn, result), ui=notes.ui or None)


def check_source(source: str, *, rewarded: bool) -> None:
    """Raise :class:`HeroError` where ``source`` takes rewards and none are wired."""
    if source != "marks" and not rewarded:
        raise HeroError(
            f"The update's source is {source!r}, which takes a reward: wire Embedding Trainer into it, or choose marks."
        )


def refuse_what_updates_would(session: Session, recorded: int, graph: Graph, node_id: str) -> None:
    """Raise :class:`HeroError` where an update wired to this round asks for what it will not get: more steps than the
    ``recorded`` ones, or rewards that nothing gives it; or where Save Round cannot run after it. A round with marks is
    judged as it was drawn.

    For the nodes that begin a round, because the update finds out only after a person has rated it. An update whose
    outputs go nowhere will not run, and is passed over.
    """
    if kept := marked_round(session):
        recorded = kept.recorded
    for name in _updates(graph, node_id):
        inputs = graph.inputs(name)
        if "scored_steps" in inputs:
            wanted = graph.literal(inputs["scored_steps"])
            check_steps(recorded, wanted if isinstance(wanted, int) else 1)
        source = graph.literal(inputs.get("source"))
        if source in ("embedding", "both"):
            check_source(source, rewarded="reward" in inputs)
    refuse_dead_ends(graph, node_id, session)


def learns_from_steps(graph: Graph, node_id: str) -> bool:
    """Whether an update wired to this node's round needs the recorded steps."""
    return any("scored_steps" in graph.inputs(name) for name in _updates(graph, node_id))


def _updates(graph: Graph, node_id: str) -> list[str]:
    """What takes this node's rollout and will run: other nodes take something of it."""
    takers = (name for name in graph.below(node_id) if source_of(graph.inputs(name).get("rollout")) == node_id)
    return sorted(name for name in takers if graph.below(name))


def refuse_dead_ends(graph: Graph, node_id: str, session: Session) -> None:
    """Raise :class:`HeroError` where the marks on this node's round would lead to nothing."""
    if reason := cannot_run(graph, node_id):
        raise HeroError(reason)
    if saves_lora(graph, node_id):
        session.store.check_lora_dir()
