"""Fixtures of the core: a toy policy and a store to put its session in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hero_core.session import Session, SessionSettings, Store

sys.path.insert(0, str(Path(__file__).parent))

from toy import ToyPolicy


@pytest.fixture
def policy() -> ToyPolicy:
    return ToyPolicy()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "hero", tmp_path / "loras")


@pytest.fixture
def session(store: Store) -> Session:
    return store.open("toy", SessionSettings(seed=7))
