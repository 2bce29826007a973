# SPDX-License-Identifier: Apache-2.0
"""Feedback Grid: show the round to a person and hand on their marks."""

from __future__ import annotations

import json
import time
from typing import Any

import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..hero_core.errors import HeroError
from ..hero_core.feedback import KEEP, Feedback, problems
from ..hero_core.loop import feedback_of, show_round
from ..hero_core.store import Round
from .comfy_graph import queued
from .comfy_host import Notes, normal_mode, picture_from, throw_if_cancelled
from .graph import left_out
from .instant import slowed, stopped_at
from .lora_update import refuse_dead_ends
from .server import announce, rated_rounds
from .sockets import CATEGORY, Drawn, FeedbackType, Rated, RolloutType, found_by, one_of_each, sentence_or_true, the_one
from .widgets import advanced

POLL = 0.1
"""Seconds between two looks at the marks and at Cancel."""

MOST = 10**6
"""More pictures than any round has: before one is drawn nobody knows how many it will have."""


class HERO_FeedbackGrid(io.ComfyNode):
    """Wait for a person's marks, or stop here until they are submitted."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HERO_FeedbackGrid",
            display_name="Feedback Grid",
            category=CATEGORY,
            **found_by("rate", "rating", "like", "dislike", "human feedback", "RLHF"),
            description=(
                "Mark pictures good or bad, and one as the best, then press Submit. Every click is kept at once, and "
                "the marks are there again after a reload or a restart."
            ),
            inputs=[
                io.Image.Input("images", tooltip="The round's pictures, decoded."),
                RolloutType.Input("rollout", tooltip="From HERO Sampler."),
                io.Combo.Input(
                    "mode", options=["wait", "resume"], default="wait",
                    tooltip=(
                        "wait: the queue holds until you submit. resume: the run ends here and frees the GPU, and "
                        "Submit queues the rest."
                    ),
                ),
                io.String.Input(
                    "labels", default="", optional=True, **advanced(),
                    tooltip='Marks as JSON, for scripts: {"labels": {"0": "good", "5": "bad"}, "best": 0}. Else empty.',
                ),
            ],
            outputs=[
                FeedbackType.Output(display_name="feedback", tooltip="The marks."),
                io.Image.Output(
                    display_name="goods", tooltip="The goods, as they were rated (8 bits). Nothing runs here without."
                ),
                io.Image.Output(
                    display_name="best", tooltip="The best, as it was rated (8 bits). Nothing runs here without."
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id, io.Hidden.dynprompt],
            is_output_node=True,
            is_input_list=True,
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, mode: Any = None, **_: object) -> str:
        """Changes when a round is submitted, so that a grid that stopped there goes on; one that waited need not."""
        return "wait" if the_one(mode) == "wait" else slowed(rated_rounds)

    @classmethod
    def validate_inputs(cls, labels: Any = None) -> str | bool:
        """Marks that are no marks are refused before anything runs; what comes over a link (None), later."""
        sent = the_one(labels)
        return not isinstance(sent, str) or sentence_or_true(lambda: _read(sent, MOST))

    @classmethod
    @one_of_each
    def execute(cls, images: Tensor, rollout: Drawn, mode: str, labels: str = "") -> io.NodeOutput:
        graph, node_id, notes = queued(cls.hidden), str(cls.hidden.unique_id), Notes(at_once=mode == "wait")
        refuse_dead_ends(graph, node_id, rollout.session)
        with normal_mode():
            round = show_round(rollout.session, rollout.rollout, images, mode)
            for sentence in left_out(graph, node_id):
                notes(sentence)
            _submit(round, labels)
            announce(round, mode == "wait" or round.marks().submitted, notes.sentences)
            if mode == "wait":
                _wait(round)
            feedback = feedback_of(rollout.session, rollout.rollout)
            ui = {"hero_round": [round.id], **notes.ui}
            if feedback is None:
                stopped_at(round)
                return io.NodeOutput(*[ExecutionBlocker(None)] * 3, ui=ui)
            return io.NodeOutput(Rated(rollout, feedback), *_pictures(feedback, round), ui=ui)


def _submit(round: Round, labels: str) -> None:
    """Submit marks that came as JSON; marks that a person has submitted already stand.

    Marks that cannot be submitted are not written either: a person may have begun to mark by hand.
    """
    marks = round.marks()
    feedback = None if marks.submitted else _read(labels or "", round.n)
    if feedback is None:
        return
    if lacking := problems(feedback, round.has_old_best):
        raise HeroError(f"labels cannot be submitted: {' '.join(lacking)}")
    round.put_marks(marks.rev, feedback)
    round.submit()


def _read(labels: str, n: int) -> Feedback | None:
    """The marks that the JSON ``labels`` gives ``n`` pictures; None where it is empty."""
    if not labels.strip():
        return None
    try:
        wanted = json.loads(labels)
    except (ValueError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else str(error)
        raise HeroError(f"labels is no JSON ({reason}); leave it empty to mark by hand.") from error
    if not isinstance(wanted, dict) or not wanted.keys() <= {"labels", "best"}:
        raise HeroError(f'labels is {labels[:40]!r}; it is like {{"labels": {{"0": "good"}}, "best": 0}}.')
    return Feedback.from_json(wanted, n)


def _wait(round: Round) -> None:
    while not round.marks().submitted:
        throw_if_cancelled()
        time.sleep(POLL)


def _pictures(feedback: Feedback, round: Round) -> tuple[Any, Any]:
    """Goods and best as batches, as they were shown: whatever may have been drawn anew since, these were rated.

    They come from the round's files, so to 8 bits. Where there is none, what is wired there does not run.
    """
    nothing = ExecutionBlocker(None)
    goods = [picture_from(round.picture(number)) for number in feedback.good]
    number = "best" if feedback.best == KEEP else feedback.best
    best = nothing if number is None else picture_from(round.picture(number))
    return torch.cat(goods) if goods else nothing, best
