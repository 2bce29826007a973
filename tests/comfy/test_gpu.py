# SPDX-License-Identifier: Apache-2.0
"""``start.py gpu`` on miniatures, on a CPU: what a card is asked, and that nothing measured is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.comfy.host import ROOT, Checkout

WHAT = {"drawing", "DDPO", "D3PO", "Score as action", "NFT"}


def gpu(checkout: Checkout, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests/comfy/gpu.py"), str(checkout.path), str(ROOT), "--out", str(out)]
    device = {"HERO_TEST_DEVICE": "cpu"} if torch.accelerator.is_available() else {}
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **device}
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def measured(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    out = tmp_path_factory.mktemp(f"gpu-{checkout.version}") / "gpu.json"
    done = gpu(checkout, out, "--miniature", "--pictures", "2", "--only", "Flux.1 dev", "Krea 2")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text(encoding="utf-8")), out.with_suffix(".md").read_text(encoding="utf-8")


def test_every_update_of_every_model_is_timed_and_its_memory_stands_beside_the_estimate(
    checkout: Checkout, measured: tuple[dict[str, Any], str]
) -> None:
    results, table = measured
    names = {"Flux.1 dev bf16, miniature", "Flux.1 dev fp8, miniature", "Krea 2 fp8, miniature"}
    assert set(results["models"]) == names
    known = {name for name in names if not (checkout.oldest and name.startswith("Krea"))}
    for name in known:
        assert WHAT == set(results["models"][name]) - {"weights_GB"}
        for what in WHAT:
            one = results["models"][name][what]
            assert "error" not in one, one
            assert one["rows"] == 2
            assert one["seconds"] > 0
            assert 0.6 < one["estimate_GB"] / one["measured_GB"] < 1.4, (name, what, one)
            assert f"| {name} | {what} | 2 | no |" in table
    for name in names - known:
        assert results["models"][name] == {"skipped": "This ComfyUI does not have the family."}
        assert "This ComfyUI does not have the family." in table


def test_what_fails_is_written_and_the_next_model_is_measured(checkout: Checkout, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = gpu(checkout, out, "--miniature", "--steps", "0", "--only", "Flux.1 dev")
    results = json.loads(out.read_text(encoding="utf-8"))["models"]
    assert done.returncode == 0
    assert list(results) == ["Flux.1 dev bf16, miniature", "Flux.1 dev fp8, miniature"]
    assert all("steps is 0" in one["skipped"] for one in results.values())


def test_without_a_card_real_models_are_not_begun(checkout: Checkout, tmp_path: Path) -> None:
    done = gpu(checkout, tmp_path / "gpu.json")
    assert done.returncode == 1
    assert "No GPU was found" in done.stderr
    assert not (tmp_path / "gpu.json").exists()
