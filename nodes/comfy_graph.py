# SPDX-License-Identifier: Apache-2.0
"""The queued workflow as :mod:`.graph` reads it, from the host's own tables."""

from __future__ import annotations

import logging
import sys
from functools import cache
from typing import Any

from comfy_execution.utils import get_executing_context

from .graph import Graph, Kind
from .server import running_server

log = logging.getLogger(__name__)


def queued(hidden: Any) -> Graph:
    """The workflow that the running node belongs to, with what other nodes have added to it while it runs.

    ``hidden``: the node's own, with ``prompt`` and, where it is asked for, ``dynprompt``.
    """
    dynamic = hidden.dynprompt
    added = dynamic.ephemeral_prompt if dynamic is not None else {}
    return Graph({**(hidden.prompt or {}), **added}, kind_of, _running())


def _running() -> frozenset[str] | None:
    """The end nodes that the host runs in this queue; None where it does not tell."""
    context, queue = get_executing_context(), getattr(running_server(), "prompt_queue", None)
    if context is None or queue is None:
        return None
    for item in queue.get_current_queue()[0]:
        if item[1] == context.prompt_id:
            return frozenset(map(str, item[4]))
    return None


@cache
def kind_of(class_type: str) -> Kind | None:
    """What the host's table says of a class of nodes; None where there is none, or it cannot be asked."""
    found = getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", {}).get(class_type)
    if found is None:
        return None
    try:
        return _described(class_type, found)
    except Exception as error:  # anybody's node, and it need not be one that runs
        log.debug("%s cannot be described: %s", class_type, error)
        return None


def _described(class_type: str, found: Any) -> Kind:
    inputs = found.INPUT_TYPES()
    required = inputs.get("required", {})
    entries = {**required, **inputs.get("optional", {})}
    kinds = {name: entry[0] if isinstance(entry[0], str) else "COMBO" for name, entry in entries.items()}
    options = {name: entry[1] if len(entry) > 1 else {} for name, entry in entries.items()}
    outputs = [kind if isinstance(kind, str) else "COMBO" for kind in found.RETURN_TYPES]
    names = getattr(found, "RETURN_NAMES", None) or outputs
    title = getattr(sys.modules.get("nodes"), "NODE_DISPLAY_NAME_MAPPINGS", {}).get(class_type)
    return Kind(
        title or class_type, kinds, tuple(zip(outputs, names, strict=False)), frozenset(required),
        frozenset(name for name, kind in kinds.items() if kind == "STRING" and options[name].get("multiline")),
    )  # fmt: skip
