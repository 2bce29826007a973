"""What the nodes that train the LoRA have in common."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..hero_core.errors import HeroError
from ..hero_core.loop import update_lora
from ..hero_core.preference import RewardResult
from ..hero_core.update.common import OptimizerSettings, check_steps
from .comfy_host import Notes, comfy_progress, normal_mode
from .comfy_policy import with_lora
from .graph import Graph, cannot_run, source_of
from .sockets import Drawn, LoRAType, Rewarded, RewardType, RolloutType, Updated, number, same_round


def policy_gradient_inputs(lr: float) -> list:
    """Sockets and widgets of the nodes that learn from recorded steps; :func:`policy_gradient_settings` reads them.

    ``lr``: the rate by default.
    """
    return [
        RolloutType.Input("rollout", tooltip="From HERO Sampler."),
        RewardType.Input("reward", tooltip="From Embedding Trainer."),
        number("lr", default=lr, min=1e-8, max=1.0, step=1e-5, round=False, tooltip=f"Learning rate: {lr:g}."),
        io.Int.Input(
            "K", default=5, min=1, max=100,
            tooltip="Steps used of each picture: 5. At most as many as HERO Sampler's scored_steps.",
        ),
        io.Int.Input("batch", default=2, min=1, max=256, tooltip="Pictures in a batch: 2."),
        io.Int.Input(
            "accumulation", default=4, min=1, max=256,
            tooltip="Batches in one optimiser step: 4. 64 pictures then give 8 optimiser steps a round.",
        ),
        number(
            "clip", default=1e-4, min=1e-8, max=1.0, step=1e-5, round=False,
            tooltip="How far the probability of a step may move (1e-4; averaged over the latent).",
        ),
        number("weight_decay", default=1e-4, min=0.0, max=1.0, step=1e-5, round=False, tooltip="AdamW: 1e-4."),
        number(
            "advantage_clip", default=5.0, min=0.1, max=100.0, step=0.1,
            tooltip="Advantages farther than this many standard deviations from the mean count as this far: 5.",
        ),
        number(
            "max_grad_norm", default=1.0, min=0.001, max=100.0, step=0.01, tooltip="Gradient clipping: 1."
        ),
        io.Int.Input("epochs", default=1, min=1, max=100, tooltip="Passes over the round: 1."),
        number(
            "kl", default=0.0, min=0.0, max=1000.0, step=0.01,
            tooltip=(
                "Weight of staying near the checkpoint (the exact KL of each step): 0. At 1, a step that moved by one "
                "of its standard deviations costs as much as an advantage of 1 brings. Costs a model call more a step."
            ),
        ),
        number(
            "kl_target", default=0.0, min=0.0, max=1000.0, step=1e-5, round=False,
            tooltip="0: kl stays as it is. Else kl grows after rounds whose KL ends above this, and shrinks below.",
        ),
    ]  # fmt: skip


def policy_gradient_settings(rollout: Drawn, reward: Rewarded, widgets: dict[str, Any]) -> dict[str, Any]:
    """The widgets as settings, once ``rollout`` and ``reward`` are known to be of one round."""
    same_round(rollout, reward.drawn, "reward")
    return {"scored_steps" if name == "K" else name: value for name, value in widgets.items()}


def learned_outputs() -> list:
    """The sockets of :func:`learned`."""
    return [
        io.Model.Output(display_name="model", tooltip="The checkpoint with the LoRA after this round."),
        LoRAType.Output(display_name="lora", tooltip="For Save Round."),
    ]


def learned(drawn: Drawn, reward: RewardResult, settings: OptimizerSettings) -> io.NodeOutput:
    """Train the LoRA on the round by the rule whose ``settings`` these are."""
    with normal_mode():
        result = update_lora(drawn.session, drawn.policy, drawn.rollout, reward, settings, comfy_progress())
        notes = Notes()
        if result.skip:
            notes(f"No step was taken: {result.skip}")
        return io.NodeOutput(with_lora(drawn.policy.model, result.state), Updated(drawn, result), ui=notes.ui or None)


def check_source(source: str, *, rewarded: bool) -> None:
    """Raise :class:`HeroError` where ``source`` takes rewards and none are wired."""
    if source != "marks" and not rewarded:
        raise HeroError(
            f"The update's source is {source!r}, which takes a reward: wire Embedding Trainer into it, or choose marks."
        )


def refuse_what_updates_would(recorded: int, graph: Graph, node_id: str) -> None:
    """Raise :class:`HeroError` where an update wired to this round asks for what it will not get: more steps than the
    ``recorded`` ones, or rewards that nothing gives it; or where Save Round cannot run after it.

    For the nodes that begin a round, because the update finds out only after a person has rated it. An update whose
    outputs go nowhere will not run, and is passed over.
    """
    for name in graph.below(node_id):
        inputs = graph.inputs(name)
        if source_of(inputs.get("rollout")) != node_id or not graph.below(name):
            continue
        if "K" in inputs:
            K = graph.literal(inputs["K"])
            check_steps(recorded, K if isinstance(K, int) else 1)
        source = graph.literal(inputs.get("source"))
        if source in ("embedding", "both"):
            check_source(source, rewarded="reward" in inputs)
    refuse_dead_ends(graph, node_id)


def refuse_dead_ends(graph: Graph, node_id: str) -> None:
    """Raise :class:`HeroError` where the marks on this node's round would lead to nothing."""
    if reason := cannot_run(graph, node_id):
        raise HeroError(reason)
