# SPDX-License-Identifier: Apache-2.0
"""What the server can do about Run (Instant), which queues a workflow again as soon as it ends: say so, and slow it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from comfy_execution.utils import get_executing_context

from ..hero_core.errors import HeroError
from ..hero_core.store import Round
from .comfy_host import say_on_node

OFTEN, WITHIN = 4, 15.0
"""So many queues in so many seconds, while the round waits, are no person's."""

HOLD = 2.0
"""Seconds for which such a queue is held; a submitted round goes on at once."""

POLL = 0.1

SENTENCE = (
    "The round waits for its marks, and Run (Instant) queues the workflow again and again meanwhile. Choose Run "
    "instead: Submit goes on by itself. Or set mode to wait."
)

_waiting: dict[str, tuple[Round, deque[float]]] = {}
"""By grid: the round that it stopped at, and when its workflow was queued since."""


def stopped_at(round: Round) -> None:
    """Note that the running node ends its run here, as the round has no submitted marks."""
    context = get_executing_context()
    if context is not None:
        _waiting[context.node_id] = round, deque(maxlen=OFTEN)


def slowed(key: Callable[[], str]) -> str:
    """``key()``; where the workflow is queued too often in vain, after a while.

    The host asks a node for its key once for every queue, also where nothing runs.
    """
    context, now = get_executing_context(), time.monotonic()
    round, times = _waiting.get(context.node_id if context else "", (None, deque()))
    if context is None or round is None:
        return key()
    times.append(now)
    if len(times) == OFTEN and now - times[0] < WITHIN and not _over(round):
        say_on_node(context.node_id, SENTENCE)
        while time.monotonic() < now + HOLD and not _over(round):
            time.sleep(POLL)
    if _over(round):
        del _waiting[context.node_id]
    return key()


def _over(round: Round) -> bool:
    try:
        return round.saved or round.marks().submitted
    except HeroError:  # gone or damaged: the node says so when it runs
        return True
