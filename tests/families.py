# SPDX-License-Identifier: Apache-2.0
"""The families of models that are tested, and the tables of them, which ``python -m tests.families`` writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.comfy.host import Checkout

NAMES = (
    "SD 1.5", "SD 2 v", "SDXL", "SDXL v", "SD 3", "SD 3.5", "Flux.1 dev", "Flux.1 schnell", "Flux.2", "Chroma",
    "Qwen-Image", "Z-Image", "Lumina 2", "HiDream", "Wan 2.1", "Wan 2.2", "AuraFlow", "PixArt", "Hunyuan-Image",
    "Cosmos-Predict2", "Anima", "Kandinsky 5", "Krea 2",
)  # fmt: skip
PRECISIONS = ("fp16", "bf16", "bf16 in fp32", "fp8 in fp16", "fp8 in bf16")
"""What the weights are kept in, and what is computed in where that is something else."""
LAYOUTS = ("fp8 scaled", "int8", "int8 convrot", "nvfp4", "mxfp8", "w4a8", "w4a4")
"""The host's quantised formats, computed in bf16."""
PAGE = Path(__file__).with_name("README.md")
HEADS = (
    "family", "layers of the real model", "draws = stock", "ratio error", "gradient / slope", "computed again",
    "updates", "file",
)  # fmt: skip


def measure(
    checkout: Checkout, names: Sequence[str], base: Path, checks: str = "family_checks"
) -> dict[str, dict[str, Any]]:
    """What ``comfy/<checks>.py`` measures of the families that this ComfyUI has."""
    from tests.comfy.host import install

    out, script = base / f"{checks}.json", Path(__file__).with_name("comfy") / f"{checks}.py"
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


def precisions(name: str, result: dict[str, Any]) -> str:
    """One family's line of the table of precisions: the cosine of its gradient in each."""
    cells = (format_cosine(result[one]) for one in (*PRECISIONS, *LAYOUTS))
    return "| " + " | ".join((name, *cells)) + " |\n"


def format_cosine(found: dict[str, Any]) -> str:
    """In so many digits that the first one that is no nine can be seen; never rounded up to 1."""
    if "error" in found:
        return "refused"
    cosine = found["cosine"]
    return f"{min(cosine, 0.999999):.6f}".lstrip("0") if cosine > 0.9999 else f"{cosine:.4f}".lstrip("0")


def table(heads: Sequence[str], rows: Iterable[str]) -> str:
    """A whole table as Markdown."""
    return "| " + " | ".join(heads) + " |\n" + "| --- " * len(heads) + "|\n" + "".join(rows)


def put(word: str, made: str) -> None:
    """Write a table between its marks on the page."""
    begin, end = f"<!-- {word} -->\n", f"<!-- end of {word} -->"
    before, rest = PAGE.read_text(encoding="utf-8").split(begin)
    PAGE.write_text(before + begin + made + end + rest.split(end)[1], encoding="utf-8")


def main() -> None:
    """Measure every family on the current ComfyUI and write the tables into the page."""
    from tests.comfy.host import checkouts

    checkout = next(one for one in checkouts() if not one.oldest)
    with tempfile.TemporaryDirectory() as base:
        results = measure(checkout, NAMES, Path(base))
        put("families", table(HEADS, (row(*one) for one in results.items())))
        results = measure(checkout, NAMES, Path(base), "precision_checks")
        put("precisions", table(("family", *PRECISIONS, *LAYOUTS), (precisions(*one) for one in results.items())))


if __name__ == "__main__":
    main()
