# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments of real rounds: every acknowledged mark is there, and the LoRA is the same to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, and kills its children")


def killed(folder: Path, root: Path, kills: int, seed: int) -> dict:
    here = root / "tests" / "core"
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{here}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, here / "killed.py", folder, str(kills), str(seed)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_kills_at_random_moments_lose_nothing(tmp_path: Path, root: Path, tally: Callable[[str, int], None]) -> None:
    found = killed(tmp_path, root, kills=20, seed=0)
    assert found["kills"] == 20
    assert found["sessions"] >= 1
    tally("kills", found["kills"])


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [1, 2])
def test_hundreds_of_kills_at_random_moments_lose_nothing(
    tmp_path: Path, root: Path, seed: int, tally: Callable[[str, int], None]
) -> None:
    found = killed(tmp_path, root, kills=250, seed=seed)
    assert found["kills"] == 250
    assert min(found["in_round"]) >= 25, "kills fell into every round"
    tally("kills", found["kills"])
