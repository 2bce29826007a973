# SPDX-License-Identifier: Apache-2.0
"""What the registry would get: the files that its tool packs, and what they import."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]

HOST = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview", "node_helpers", "nodes", "server"}
"""ComfyUI's own modules."""

BROUGHT = {"torch", "numpy", "safetensors", "aiohttp", "PIL", "filelock"}
"""Packages that every supported ComfyUI brings, by the names they are imported by."""


def is_checkout() -> bool:
    """Whether git can say which files there are."""
    return shutil.which("git") is not None and (ROOT / ".git").exists()


def git_files(*arguments: str) -> set[str]:
    """Paths that git lists, of files that are there."""
    command = ["git", "-c", "core.quotepath=off", "ls-files", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {line for line in done.stdout.splitlines() if (ROOT / line).is_file()}


def published() -> list[str]:
    """The files that git tracks (here also those not yet added) but for .comfyignore's, in order."""
    tracked = git_files("--cached", "--others", "--exclude-standard")
    ignored = git_files("--cached", "--others", "--ignored", "--exclude-from=.comfyignore")
    return sorted(tracked - ignored)


def pack(target: Path) -> Path:
    """The archive, packed as the registry's tool does it: .comfyignore is read as gitignore patterns by pathspec."""
    import pathspec

    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    ignored = pathspec.PathSpec.from_lines("gitignore", lines)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(git_files("--cached", "--others", "--exclude-standard")):
            if not ignored.match_file(name):
                archive.write(ROOT / name, name)
    return target


def imports(name: str) -> tuple[set[str], set[str]]:
    """What a file imports anywhere in it: files of this repository, and names of other packages.

    Imports for the type checker alone are left out.
    """
    inside, outside, folder = set(), set(), PurePosixPath(name).parent
    for node in _at_run_time(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            outside.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = folder.joinpath(*[".."] * (node.level - 1), *(node.module or "").split("."))
            inside |= _files_of(base) | {file for alias in node.names for file in _files_of(base / alias.name)}
    return inside, outside - set(sys.stdlib_module_names)


def _at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _at_run_time(child)


def _files_of(module: PurePosixPath) -> set[str]:
    """A module's file, and the `__init__.py` of each package around it."""
    module = PurePosixPath(os.path.normpath(module))
    packages = [module, *module.parents][:-1]
    found = {str(module.with_suffix(".py")), *(str(package / "__init__.py") for package in packages)}
    return {name for name in found if (ROOT / name).is_file()}


def reached(start: str = "__init__.py") -> dict[str, set[str]]:
    """Every file that runs once `start` is imported, with the other packages that each imports."""
    found: dict[str, set[str]] = {}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name not in found:
            inside, found[name] = imports(name)
            waiting += sorted(inside)
    return found
