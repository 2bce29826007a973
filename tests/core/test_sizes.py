# SPDX-License-Identifier: Apache-2.0
"""How long files and functions of the product may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.published import ROOT

FOLDERS = ("hero_core", "launch", "nodes", "web")
SUFFIXES = (".py", ".mjs", ".js", ".css", ".html")
FILES = [
    *(ROOT / name for name in ("__init__.py", "start.py")),
    *sorted(path for name in FOLDERS for path in (ROOT / name).rglob("*") if path.suffix in SUFFIXES),
]
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]


def functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for one in ast.walk(node):
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
            yield one


def test_there_is_something_to_measure():
    assert len(NAMES) > 80
    assert {"start.py", "nodes/sampler.py", "hero_core/loop.py", "web/grid.mjs"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_has_at_most_400_lines(name):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".py")])
def test_a_function_has_at_most_60_lines(name):
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    lengths = {one.name: one.end_lineno - one.lineno + 1 for one in functions(tree)}
    assert {name: length for name, length in lengths.items() if length > 60} == {}
