# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the core: a toy policy and a store to put its session in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from hero_core.store import Session, SessionSettings, Store

sys.path.insert(0, str(Path(__file__).parent))

from toy import ToyPolicy

# The tensors here are small: a second thread costs more than it brings, and far more where another program runs too.
torch.set_num_threads(1)

# A busy machine must not fail a property, and what fails once must fail again.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


@pytest.fixture
def policy() -> ToyPolicy:
    return ToyPolicy()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "hero", tmp_path / "loras")


@pytest.fixture
def session(store: Store) -> Session:
    return store.open("toy", SessionSettings(seed=7))
