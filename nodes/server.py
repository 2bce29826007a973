# SPDX-License-Identifier: Apache-2.0
"""What ties the nodes to the running ComfyUI server: the store's folders, the HTTP routes, messages to the browser."""

from __future__ import annotations

import sys
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import folder_paths
from comfy_execution.utils import get_executing_context

from ..hero_core.store import Round, Store


def store() -> Store:
    """The one store: sessions in the output folder, LoRA files where LoraLoader lists them."""
    return _store(folder_paths.get_output_directory(), folder_paths.get_folder_paths("loras")[0])


@lru_cache(maxsize=4)
def _store(output: str, loras: str) -> Store:
    return Store(Path(output) / "hero", Path(loras) / "hero")


def lora_name(path: Path) -> str:
    """A LoRA file's name as LoraLoader lists it."""
    return str(path.relative_to(folder_paths.get_folder_paths("loras")[0]))


def rated_rounds() -> str:
    """The rounds that are submitted and not saved yet: while it stays the same, a feedback grid need not look again."""
    return ",".join(sorted(round.id for round in store().rounds("rated")))


def notify(event: str, data: dict) -> None:
    """Tell every open browser tab."""
    instance = running_server()
    if instance is not None:
        instance.send_sync(event, data)


class _Shown(NamedTuple):
    """What this process knows of a round beside its files: the run that waits for it or goes on with it, and notes."""

    run: str | None
    notes: list[str]


_shown: dict[str, _Shown] = {}
_shown_lock = threading.Lock()


def announce(round: Round, goes_on: bool = False, notes: list[str] | None = None) -> None:
    """Tell every open browser tab that a round has pictures to rate, or changed.

    ``goes_on``: this run waits for the marks or has them, so that nobody needs to queue it again. ``notes`` are
    sentences that the rater should read before the first mark.
    """
    context = get_executing_context()
    with _shown_lock:
        _shown[round.id] = _Shown(context.prompt_id if goes_on and context else None, list(notes or []))
    notify("hero.round", round.to_json() | about(round.id))


def about(round_id: str) -> dict[str, Any]:
    """What the round's JSON holds beside its files: ``running``, while a run waits for it or goes on, and ``notes``."""
    with _shown_lock:
        run, notes = _shown.get(round_id, _Shown(None, []))
    return {"running": run is not None and run in _running_prompts(), "notes": notes}


def _running_prompts() -> set[str]:
    """Ids of the prompts that run at this moment."""
    queue = getattr(running_server(), "prompt_queue", None)
    return {item[1] for item in list(getattr(queue, "currently_running", {}).values())}


def mount() -> None:
    """Add the rating routes to the server, when there is one (not when a tool merely imports the pack)."""
    instance = running_server()
    if instance is not None:
        from ..hero_core.rating.routes import add_routes

        add_routes(instance.routes, store, notify, about=about)


def running_server() -> Any:
    """The running server; None where ComfyUI's modules are used without it."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
