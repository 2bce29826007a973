# SPDX-License-Identifier: Apache-2.0
"""The LoRA's file in diffusers' own loader: ``diffusers_checks.py`` measures, this says what must be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hero_core.lora import TARGETS
from tests.comfy.host import Checkout, install

Measured = dict[str, dict[str, dict[str, Any]]]
NARROW, WIDE = ["SD 1.5", "SDXL", "SD 3", "SD 3.5", "Flux.1"], ["Flux.1 wide"]
"""Miniatures; and Flux at its real width, which is half a billion weights."""


@pytest.fixture(scope="module", params=[NARROW, pytest.param(WIDE, marks=pytest.mark.long)])
def measured(
    newest: None, checkout: Checkout, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Measured:
    base = tmp_path_factory.mktemp(f"diffusers-{checkout.version}")
    out, script = base / "measured.json", Path(__file__).with_name("diffusers_checks.py")
    command = [sys.executable, str(script), str(checkout.path), str(install(base)), str(out), *request.param]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=environment, cwd=base)
    assert out.is_file(), done.stderr[-4000:]
    found: Measured = json.loads(out.read_text())
    assert [one["error"] for choices in found.values() for one in choices.values() if "error" in one] == []
    assert list(found) == request.param
    return found


def every(measured: Measured, figure: str) -> dict[str, Any]:
    return {f"{name}, {choice}": one[figure] for name, choices in measured.items() for choice, one in choices.items()}


def test_the_two_models_are_one(measured: Measured) -> None:
    assert max(every(measured, "base").values()) < 1e-4


def test_the_file_gives_in_diffusers_what_was_learned(measured: Measured) -> None:
    """In units of what the LoRA changes: one layer that is left out would be seen."""
    assert max(every(measured, "difference").values()) < 1e-3
    assert min(every(measured, "effect").values()) > 0.05


def test_diffusers_warns_of_no_key(measured: Measured) -> None:
    assert {name: said for name, said in every(measured, "said").items() if said} == {}


def test_layers_are_in_parts_where_diffusers_reads_nothing_else(measured: Measured) -> None:
    parts = {name: number > 0 for name, number in every(measured, "in_parts").items()}
    assert parts == {
        name: name.startswith("SD 3") or (name.startswith("Flux") and "every" in name) for name in parts
    }  # fmt: skip
    assert all(set(choices) == set(TARGETS) for name, choices in measured.items() if name != "Flux.1")
