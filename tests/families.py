# SPDX-License-Identifier: Apache-2.0
"""The families of models that are tested, and the table of them, which ``python -m tests.families`` writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.comfy.host import Checkout

NAMES = (
    "SD 1.5", "SD 2 v", "SDXL", "SDXL v", "SD 3", "SD 3.5", "Flux.1 dev", "Flux.1 schnell", "Flux.2", "Chroma",
    "Qwen-Image", "Z-Image", "Lumina 2", "HiDream", "Wan 2.1", "Wan 2.2", "AuraFlow", "PixArt", "Hunyuan-Image",
    "Cosmos-Predict2", "Anima", "Kandinsky 5", "Krea 2",
)  # fmt: skip
PAGE = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- families -->\n", "<!-- end of families -->"
HEADS = (
    "family", "layers of the real model", "draws = stock", "ratio error", "gradient / slope", "computed again",
    "updates", "file",
)  # fmt: skip


def measure(checkout: Checkout, names: Sequence[str], base: Path) -> dict[str, dict[str, Any]]:
    """What ``comfy/family_checks.py`` measures of the families that this ComfyUI has."""
    from tests.comfy.host import install

    out, script = base / "families.json", Path(__file__).with_name("comfy") / "family_checks.py"
    command = [sys.executable, str(script), str(checkout.path), str(install(base)), str(out), *names]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False, env=environment, cwd=base)
    if done.returncode or not out.is_file():
        raise RuntimeError(done.stderr[-4000:])
    return json.loads(out.read_text())


def short(figure: float) -> str:
    """A small figure in one digit."""
    return f"{figure:.0e}" if figure else "0"


def row(name: str, result: dict[str, Any]) -> str:
    """One family's line of the table."""
    drawing, gradient, file = result["drawing"], result["gradient"], result["file"]
    moved = [rule for rule, by in result["updates"]["moved"].items() if by > 0]
    cells = (
        name, result["real"][0], short(drawing["difference"]), short(result["updates"]["ratio_error"]),
        f"{gradient['slope']:.4f}", short(gradient["recomputed"]), ", ".join(moved),
        f"{file['patched']} of {file['layers']} layers, {short(file['difference'])}",
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |\n"


def table(results: dict[str, dict[str, Any]]) -> str:
    """The whole table as Markdown."""
    head = "| " + " | ".join(HEADS) + " |\n" + "| --- " * len(HEADS) + "|\n"
    return head + "".join(row(name, result) for name, result in results.items())


def main() -> None:
    """Measure every family on the current ComfyUI and write the table into the page."""
    from tests.comfy.host import checkouts

    checkout = next(one for one in checkouts() if not one.oldest)
    with tempfile.TemporaryDirectory() as base:
        results = measure(checkout, NAMES, Path(base))
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(before + BEGIN + table(results) + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
