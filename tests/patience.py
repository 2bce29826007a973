# SPDX-License-Identifier: Apache-2.0
"""How long a test waits for what must come: no test compares seconds, for any machine may be busy."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 600.0
"""Seconds until a wait is given up. Only a test that fails waits as long; what must come comes in a fraction of it."""


def until(condition: Callable[[], object], what: str | Callable[[], str], pause: float = 0.05) -> None:
    """Wait until a condition holds; `what` says what went wrong if it never does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what if isinstance(what, str) else what()
        time.sleep(pause)
