# SPDX-License-Identifier: Apache-2.0
"""The estimates of memory for real models, which ``python -m tests.memory`` writes into the README."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.comfy.host import Checkout

PAGE = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- memory -->\n", "<!-- end of memory -->"
HEADS = ("model", "its weights", "drawing", "Forward-Process", "DDPO, Score-as-Action")


def measure(checkout: Checkout, what: str, base: Path) -> dict[str, Any]:
    """What ``comfy/memory_checks.py`` measures: ``quick``, ``whole`` or ``table``."""
    from tests.comfy.host import install

    out, script = base / "memory.json", Path(__file__).with_name("comfy") / "memory_checks.py"
    command = [sys.executable, str(script), str(checkout.path), str(install(base)), str(out), what]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False, env=environment, cwd=base)
    if done.returncode or not out.is_file():
        raise RuntimeError(done.stderr[-4000:])
    return json.loads(out.read_text())


def table(results: dict[str, dict[str, float]]) -> str:
    """The estimates as Markdown, in GB."""
    rows = [[name, *(f"{row[key]:.1f}" for key in ("weights", "drawing", "forward", "ddpo"))]
            for name, row in results.items()]  # fmt: skip
    lines = [HEADS, ["---"] * len(HEADS), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main() -> None:
    """Reckon every model with the current ComfyUI and write the table."""
    from tests.comfy.host import checkouts

    checkout = next(one for one in checkouts() if not one.oldest)
    with tempfile.TemporaryDirectory() as base:
        results = measure(checkout, "table", Path(base))
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(before + BEGIN + table(results) + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
