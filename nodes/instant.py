"""What the server can do about Run (Instant), which queues a workflow again as soon as it ends: say so, and slow it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from comfy_execution.utils import get_executing_context

from .comfy_host import say_on_node

OFTEN, WITHIN = 4, 15.0
"""So many queues in so many seconds are no person's."""

HOLD = 2.0
"""Seconds for which such a queue is held; a submitted round goes on at once."""

POLL = 0.1

SENTENCE = (
    "The round waits for its marks, and Run (Instant) queues the workflow again and again meanwhile. Choose Run "
    "instead: Submit goes on by itself. Or set mode to wait."
)

_asked: dict[str, tuple[str, deque[float]]] = {}
"""By node: the last answer, and when it was asked for."""


def slowed(key: Callable[[], str]) -> str:
    """``key()``, the state that a grid in ``resume`` waits on; where it was asked for too often in vain, after a while.

    The host asks once for every queue, also where nothing runs. It is the node's context that tells which one.
    """
    context, found, now = get_executing_context(), key(), time.monotonic()
    if context is None:
        return found
    last, times = _asked.get(context.node_id, ("", deque(maxlen=OFTEN)))
    if last != found:
        times.clear()
    _asked[context.node_id] = found, times
    times.append(now)
    if len(times) < OFTEN or now - times[0] > WITHIN:
        return found
    say_on_node(context.node_id, SENTENCE)
    while time.monotonic() < now + HOLD and key() == found:
        time.sleep(POLL)
    times[-1] = time.monotonic()
    return key()
