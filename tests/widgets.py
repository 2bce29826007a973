# SPDX-License-Identifier: Apache-2.0
"""Every input of every node, in order. Workflow files that people share hold these names and this order, so they are
for ever: a new widget goes last and is optional, and none moves, leaves or gets another name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hero_core.embedding import EmbeddingSettings
from hero_core.lora import PATTERN_WIDGET, TARGETS_WIDGET, LoRAConfig
from hero_core.mixture import MixtureSettings
from hero_core.reward import REWARD_MODE
from hero_core.rollout import SamplingSettings
from hero_core.settings import Setting, settings_of
from hero_core.store import SessionSettings
from hero_core.update.ddpo import DDPOSettings
from hero_core.update.forward import RULE
from hero_core.update.nft import NFTSettings
from hero_core.update.score_action import ScoreActionSettings


@dataclass(frozen=True)
class Node:
    """``sockets``, then the widgets that everybody sees, then the ``advanced`` ones, then what may be left out, and
    the ``later`` ones: widgets that came after others had been shared, advanced too.

    ``kinds``: the settings classes that say what the widgets are; ``own``: widgets that are no setting of a class.
    """

    sockets: list[str]
    widgets: list[str] = field(default_factory=list)
    advanced: list[str] = field(default_factory=list)
    optional: list[str] = field(default_factory=list)
    later: list[str] = field(default_factory=list)
    kinds: tuple[type, ...] = ()
    own: dict[str, Setting] = field(default_factory=dict)

    @property
    def inputs(self) -> list[str]:
        """All of them, as the host lists them."""
        return [*self.sockets, *self.widgets, *self.advanced, *self.optional, *self.later]

    @property
    def settings(self) -> dict[str, Setting]:
        """The settings behind the widgets, in the widgets' order; a widget that is a matter of the node has none."""
        known = {name: one for kind in self.kinds for name, one in settings_of(kind).items()} | self.own
        return {name: known[name] for name in (*self.widgets, *self.advanced, *self.later) if name in known}


POLICY_GRADIENT = {
    "sockets": ["rollout", "reward"],
    "widgets": ["lr", "batch", "epochs", "kl_coef"],
    "advanced": [
        "scored_steps", "clip", "advantage_clip", "kl_target", "weight_decay", "max_grad_norm", "micro_batch"
    ],
}  # fmt: skip

NODES = {
    "HERO_TinyModel": Node([], optional=["kind"]),
    "HERO_Session": Node(
        [], ["name", "seed"], ["rank", "alpha"], later=["targets", "pattern"], kinds=(SessionSettings, LoRAConfig),
        own={"targets": TARGETS_WIDGET, "pattern": PATTERN_WIDGET},
    ),
    "HERO_Sampler": Node(
        ["model", "positive", "negative", "latent", "session"],
        ["steps", "cfg", "scheduler", "micro_batch"], ["eta", "scored_steps", "scored_part"], kinds=(SamplingSettings,),
    ),
    "HERO_FeedbackGrid": Node(["images", "rollout"], ["mode"], optional=["labels"]),
    "HERO_EmbeddingTrainer": Node(
        ["rollout", "feedback"], ["reward_mode", "steps"], ["lr", "margin"], kinds=(EmbeddingSettings,),
        own={"reward_mode": REWARD_MODE},
    ),
    "HERO_DDPOUpdate": Node(**POLICY_GRADIENT, kinds=(DDPOSettings,)),
    "HERO_LatentMixture": Node(["rollout", "feedback"], ["beta", "eps0"], kinds=(MixtureSettings,)),
    "HERO_SaveRound": Node(["session"], optional=["reward", "lora", "mixture"]),
    "HERO_NFTUpdate": Node(
        ["rollout", "feedback"], ["rule", "source", "lr", "steps", "ref_penalty"],
        ["batch", "beta", "ema_decay", "weight_decay", "max_grad_norm", "micro_batch"], ["reward"],
        kinds=(NFTSettings,), own={"rule": RULE},
    ),
    "HERO_RateLatents": Node(["model", "positive", "negative", "latent", "session"], optional=["noise"]),
    "HERO_SessionModel": Node(["model", "session"]),
    "HERO_ScoreActionUpdate": Node(
        **{**POLICY_GRADIENT, "advanced": [*POLICY_GRADIENT["advanced"], "min_r2", "critic_steps", "critic_lr"]},
        kinds=(ScoreActionSettings,),
    ),
}  # fmt: skip

FIRST = 5
"""No node shows more widgets than these to somebody who has not asked for more."""
