# SPDX-License-Identifier: Apache-2.0
"""The walls of the house, read off its imports: arrows point down, maths opens no file, the store learns nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = (
    ("errors", "seeding", "transition", "optimizer", "compact", "memory"),
    ("settings", "feedback"),
    ("lora", "precision"),
    ("policy", "mixture", "reward", "metadata"),
    ("rollout", "embedding"),
    ("store", "update", "preference"),
    ("loop",),
    ("report", "rating"),
)
"""The rooms of ``hero_core`` from the ground up: each takes from those below and from itself alone."""
WINGS = ("tiny", "bench", "demo", "terminal", "__main__", "__init__")
"""What stands beside the house: the tiny model, and what a clone has for development: nothing needs them."""
OPENERS = {"open", "os", "shutil", "json", "io", "safetensors", "tempfile"}
"""Modules and functions with which a file would open files; a path may be named."""


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The modules of this project that a file imports, as dotted paths from the root; others by their own names."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room(path: Path) -> str:
    return path.relative_to(ROOT / "hero_core").with_suffix("").parts[0]


def rooms_of(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("hero_core.")}


HOUSE = [path for path in files("hero_core") if room(path) not in WINGS]


def test_every_room_has_a_floor() -> None:
    assert {room(path) for path in HOUSE} == {name for floor in FLOORS for name in floor}


@pytest.mark.parametrize("path", HOUSE, ids=lambda path: str(path.relative_to(ROOT / "hero_core")))
def test_arrows_point_down(path: Path) -> None:
    height = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    own = room(path)
    above = {name for name in rooms_of(path) - {own} if height.get(name, len(FLOORS)) >= height[own]}
    assert not above, f"{own} stands below {above} or beside them"


def test_no_circle_of_files() -> None:
    known = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in [*HOUSE, *files("nodes")]}
    arrows = {name: {target for target in known if _takes(path, target)} for name, path in known.items()}
    while leaves := {name for name, targets in arrows.items() if not targets - {name}}:
        arrows = {name: targets - leaves for name, targets in arrows.items() if name not in leaves}
    assert not arrows, f"files that import each other: {sorted(arrows)}"


def _takes(path: Path, target: str) -> bool:
    return any(name == target or name.startswith(target + ".") for name in imports(path))


def test_a_maths_file_opens_no_file() -> None:
    maths = [path for path in HOUSE if room(path) not in ("store", "report", "rating", "loop")]
    for path in maths:
        found = {name.split(".")[0] for name in imports(path)} & OPENERS
        called = {node.func.id for node in ast.walk(ast.parse(path.read_text())) if _called(node)} & OPENERS
        assert not found | called, f"{path.name} takes {found | called}"


def _called(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def test_the_store_computes_no_gradient() -> None:
    for path in files("hero_core/store"):
        text = path.read_text(encoding="utf-8")
        assert not [word for word in ("backward(", "requires_grad", "autograd", "torch.optim") if word in text], path
        assert not rooms_of(path) & {"update", "preference", "policy", "loop"}, path.name


def test_hero_core_knows_no_host() -> None:
    for path in files("hero_core"):
        hosts = {name for name in imports(path) if name.split(".")[0] in HOSTS or name.startswith("nodes")}
        assert not hosts, f"{path} takes {hosts}"


HOSTS = ("comfy", "comfy_api", "comfy_execution", "folder_paths", "server", "execution", "latent_preview")


def test_only_comfy_files_know_the_hosts_internals() -> None:
    for path in files("nodes"):
        inside = {name for name in imports(path) if name.split(".")[0] in ("comfy", "latent_preview")}
        assert not inside or path.name.startswith("comfy_"), f"{path.name} takes {inside}"


def test_the_map_names_every_room() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = {name for floor in FLOORS for name in floor} | {path.stem for path in (ROOT / "nodes").glob("comfy_*.py")}
    rooms |= {path.stem for part in ("store", "update") for path in (ROOT / "hero_core" / part).glob("[a-z]*.py")}
    assert not sorted(name for name in rooms if not re.search(rf"\b{name}\b", text))
