# SPDX-License-Identifier: Apache-2.0
"""The pack's own socket types, and what travels through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from comfy_api.latest import io

from ..hero_core.errors import HeroError
from ..hero_core.feedback import Feedback
from ..hero_core.loop import LoRAResult
from ..hero_core.mixture import Mixture
from ..hero_core.preference import RewardResult
from ..hero_core.rollout import Rollout
from ..hero_core.store import Session
from .comfy_policy import ComfyPolicy

CATEGORY = "HERO"

SessionType = io.Custom("HERO_SESSION")
RolloutType = io.Custom("HERO_ROLLOUT")
FeedbackType = io.Custom("HERO_FEEDBACK")
RewardType = io.Custom("HERO_REWARD")
LoRAType = io.Custom("HERO_LORA")
MixtureType = io.Custom("HERO_MIXTURE")


def found_by(*words: str) -> dict[str, list[str]]:
    """Further words that find a node in the search box, where this ComfyUI takes them."""
    return {"search_aliases": list(words)} if "search_aliases" in io.Schema.__dataclass_fields__ else {}


def sentence_or_true(check: Callable[[], object]) -> str | bool:
    """The answer of ``validate_inputs``: True, or what ``check`` raises as the sentence on the node.

    ComfyUI asks when a workflow is queued, before any node runs.
    """
    try:
        check()
    except HeroError as error:
        return str(error)
    return True


def one_of_each(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """For nodes with ``is_input_list=True``: ``execute`` gets the one value of each input, and a list is refused.

    Without it the host would run the node once for each value of a list, and a round would fall to pieces.
    """

    @wraps(execute)
    def with_one(cls: Any, **inputs: list) -> io.NodeOutput:
        for name, values in inputs.items():
            if len(values) != 1:
                raise HeroError(
                    f"{name} comes as a list of {len(values)}, and a round takes one: its pictures go in one batch. "
                    "Take out the node that makes the list (as Rebatch Latents does), or make one batch of it."
                )
        return execute(cls, **{name: values[0] for name, values in inputs.items()})

    return with_one


def the_one(value: Any) -> Any:
    """A widget's value as the host hands it to the other methods of such a node; None over a link."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


@dataclass(frozen=True)
class Drawn:
    """HERO_ROLLOUT: a round with the session it belongs to and the policy that drew it."""

    session: Session
    policy: ComfyPolicy
    rollout: Rollout

    @property
    def key(self) -> tuple[str, int]:
        """Session name and round."""
        return self.session.name, self.rollout.round


@dataclass(frozen=True)
class Rated:
    """HERO_FEEDBACK: the submitted marks of a round."""

    drawn: Drawn
    feedback: Feedback


@dataclass(frozen=True)
class Rewarded:
    """HERO_REWARD: the rewards of a round."""

    drawn: Drawn
    result: RewardResult


@dataclass(frozen=True)
class Updated:
    """HERO_LORA: the LoRA after a round."""

    drawn: Drawn
    result: LoRAResult


@dataclass(frozen=True)
class Mixed:
    """HERO_MIXTURE: where the next round's noise comes from; None where there was never a good picture."""

    drawn: Drawn
    mixture: Mixture | None


def same_round(drawn: Drawn, other: Drawn, what: str) -> None:
    """Raise :class:`HeroError` where two sockets carry different rounds."""
    if drawn.key != other.key:
        raise HeroError(
            f"The rollout is round {drawn.key[1]} of session {drawn.key[0]!r}, and the {what} belongs to round "
            f"{other.key[1]} of session {other.key[0]!r}: wire both from one HERO Sampler."
        )
