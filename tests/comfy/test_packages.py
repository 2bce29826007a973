# SPDX-License-Identifier: Apache-2.0
"""What the pack imports is there wherever ComfyUI is."""

from __future__ import annotations

import re
from importlib.metadata import requires

from tests.comfy.host import Checkout
from tests.published import BROUGHT


def test_comfyui_brings_what_the_pack_imports(checkout: Checkout) -> None:
    lines = (checkout.path / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines += requires("torch") or []  # filelock: the newest ComfyUI names it, the oldest has it from torch
    named = {re.split(r"[^\w.-]", line.lower())[0] for line in lines}
    assert {{"PIL": "pillow"}.get(name, name) for name in BROUGHT} <= named
