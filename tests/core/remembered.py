# SPDX-License-Identifier: Apache-2.0
"""Rounds at the speed of the disk: what the maths gives is remembered by everything that it is given.

The store is what is under test, and the same rounds are played hundreds of times. A result is taken from memory only
where the state that came from the disk, the rollout, the marks and the settings are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from torch import Tensor
from toy import NarrowEmbedding

from hero_core import embedding, loop
from hero_core.store import Session, files

_results: dict[tuple[Any, ...], Any] = {}


def remember(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``loop`` remember what sampling, embedding and update gave, and leave out the waiting for the disk.

    The embedding is a narrow one, so that the disk has little to take.
    """
    monkeypatch.setattr(embedding, "Embedding", NarrowEmbedding)
    monkeypatch.setattr(loop, "sample", _remembered(loop.sample))
    monkeypatch.setattr(loop, "learn_reward", _remembered(loop.learn_reward))
    monkeypatch.setattr(loop, "update_lora", _remembered(loop.update_lora))
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: None)


def _remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        key = (function.__qualname__, _key([*args, kwargs]))
        if key not in _results:
            _results[key] = function(*args, **kwargs)
        return _results[key]

    return call


def _key(value: Any) -> Any:
    """A hashable that is equal for equal values: tensors by their bits, sessions by their state."""
    if isinstance(value, Tensor):
        return files.checksum_of_tensors({"": value.detach()})
    if isinstance(value, Session):
        return (value.settings, value.open_round, _key(value.state()))
    if isinstance(value, dict):
        return tuple((str(name), _key(part)) for name, part in sorted(value.items(), key=lambda item: str(item[0])))
    if isinstance(value, (list, tuple)):
        return tuple(_key(part) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return (type(value).__name__, *(_key(getattr(value, each.name)) for each in fields(value)))
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    if hasattr(value, "fingerprint"):
        return value.fingerprint
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
