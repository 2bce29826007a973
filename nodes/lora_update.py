"""What the nodes that train the LoRA have in common."""

from __future__ import annotations

from comfy_api.latest import io

from ..hero_core.loop import RewardResult, update_lora
from ..hero_core.update.common import OptimizerSettings
from .comfy_policy import comfy_progress, normal_mode, with_lora
from .sockets import Drawn, LoRAType, Updated


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
        return io.NodeOutput(with_lora(drawn.policy.model, result.state), Updated(drawn, result))
