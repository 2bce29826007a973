# SPDX-License-Identifier: Apache-2.0
"""HERO Session: a name under which everything is kept."""

from __future__ import annotations

from comfy_api.latest import io

from ..hero_core.errors import HeroError
from ..hero_core.lora import PATTERN_WIDGET, TARGETS_WIDGET, LoRAConfig
from ..hero_core.lora import targets as pattern_of
from ..hero_core.settings import settings_of
from ..hero_core.store import SessionSettings, check_name
from .server import store
from .sockets import CATEGORY, SessionType, found_by, sentence_or_true
from .widgets import advanced, widget, widgets


class HERO_Session(io.ComfyNode):
    """Open the session of this name, or begin it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HERO_Session",
            display_name="HERO Session",
            category=CATEGORY,
            **found_by("human feedback", "RLHF", "preference"),
            description=(
                "A session learns one prompt on one checkpoint, round by round. Everything is kept under its name in "
                "output/hero, so you can stop at any time and queue again later. A new name begins anew."
            ),
            inputs=[
                io.String.Input(
                    "name", default="my_session", tooltip="Letters, digits, - and _. A new name begins a new session."
                ),
                widget("seed", settings_of(SessionSettings)["seed"], control_after_generate=False),
                *widgets(LoRAConfig, more=("rank", "alpha")),
                widget("targets", TARGETS_WIDGET, optional=True, **advanced()),
                widget("pattern", PATTERN_WIDGET, optional=True, **advanced()),
            ],
            outputs=[SessionType.Output(display_name="session", tooltip="Wire into HERO Sampler and Save Round.")],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, name: str | None = None, **_: object) -> str:
        """The session's revision, so that all nodes below run again once a round is saved; that of all sessions where
        the name comes over a link, as nobody knows it yet when the host asks."""
        try:
            if name is None:
                return store().revisions()
            return store().revision(name)
        except HeroError:
            return "refused"

    @classmethod
    def validate_inputs(cls, name: str | None = None, pattern: str | None = None) -> str | bool:
        """What is no name and no pattern is refused before anything runs; None comes over a link and is looked at
        later."""

        def check() -> None:
            if name is not None:
                check_name(name)
            pattern_of(pattern or TARGETS_WIDGET.default)

        return sentence_or_true(check)

    @classmethod
    def execute(
        cls, name: str, seed: int, rank: int, alpha: float, targets: str = TARGETS_WIDGET.default, pattern: str = ""
    ) -> io.NodeOutput:
        lora = LoRAConfig(rank, alpha, pattern_of(pattern or targets))
        return io.NodeOutput(store().open(name, SessionSettings(seed, lora)))
