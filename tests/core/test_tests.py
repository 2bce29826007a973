# SPDX-License-Identifier: Apache-2.0
"""The tests themselves: each one claims something, and none leans on another."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
FILES = sorted(TESTS.rglob("test_*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef

CLAIMS = ("assert_close", "raises", "warns", "fail", "wait_for", "wait_for_function", "until")
"""Calls that fail where what they wait for or compare is not so, beside what asserts in the tests' own helpers."""


@cache
def functions(path: Path) -> tuple[Function, ...]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@cache
def called(node: ast.AST) -> set[str]:
    calls = (part.func for part in ast.walk(node) if isinstance(part, ast.Call))
    return {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}


def asserting() -> set[str]:
    """The names of the functions under tests/ that assert, by themselves or by what they call."""
    every = [one for path in TESTS.rglob("*.py") for one in functions(path) if not one.name.startswith("test_")]
    found = set(CLAIMS)
    while more := {f.name for f in every if f.name not in found and claims(f, found)}:
        found |= more
    return found


def claims(function: Function, known: set[str]) -> bool:
    """Whether it holds an assert that can fail, or calls something that does."""
    sure = (part for part in ast.walk(function) if isinstance(part, ast.Assert) and not says_nothing(part.test))
    return any(True for _ in sure) or bool(called(function) & known) or "expect" in called(function)


def says_nothing(test: ast.expr) -> bool:
    """``assert x`` of a name or a constant, and ``a == a``: true of nearly anything."""
    if isinstance(test, ast.Compare) and len(test.comparators) == 1:
        return ast.dump(test.left) == ast.dump(test.comparators[0])
    return isinstance(test, ast.Constant)


def test_no_test_file_imports_from_another() -> None:
    names = {path.stem for path in FILES}
    leaning = []
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            leaning += [f"{path.name}: {module}" for module in modules if module.rpartition(".")[2] in names]
    assert leaning == []


def test_every_test_claims_something() -> None:
    known, silent = asserting(), []
    for path in FILES:
        for function in functions(path):
            parts = (part for part in ast.walk(function) if isinstance(part, ast.Assert) and says_nothing(part.test))
            silent += [f"{path.name}:{part.lineno}" for part in parts]
            if function.name.startswith("test_") and not claims(function, known):
                silent.append(f"{path.name}:{function.lineno} {function.name}")
    assert silent == []
