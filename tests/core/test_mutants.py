# SPDX-License-Identifier: Apache-2.0
"""The list of mutants does not rot: every line that is to be broken is there, and so is every test that must see it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutant_list import MUTANTS, Mutant
from tests.mutants import survives

TEST = "from code import double\n\ndef test_double():\n    assert double(3) == 6\n"


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.what for mutant in MUTANTS])
def test_its_line_is_there_once_and_its_tests_are(mutant: Mutant, root: Path) -> None:
    text = (root / mutant.file).read_text(encoding="utf-8")
    times = text.count(mutant.old)
    assert times == 1, f"{mutant.old!r} stands {times} times in {mutant.file}: see tests/mutant_list.py"
    ast.parse(text.replace(mutant.old, mutant.new))
    assert mutant.new != mutant.old
    assert mutant.tests
    for test in mutant.tests:
        file, name = test.split("::")
        functions = [node.name for node in ast.walk(ast.parse((root / file).read_text(encoding="utf-8")))
                     if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]  # fmt: skip
        assert name in functions


@pytest.mark.parametrize(("new", "tests", "expected"), [
    ("x * 3", "test_code.py::test_double", "killed"),
    ("x + x", "test_code.py::test_double", "SURVIVED"),
    ("x *", "test_code.py::test_double", "no test was run"),
    ("x * 3", "test_code.py::test_other", "no test was run"),
])  # fmt: skip
def test_killed_and_survived_are_told_apart(tmp_path: Path, new: str, tests: str, expected: str) -> None:
    (tmp_path / "double.py").write_text("def double(x):\n    return x * 2\n")
    (tmp_path / "test_code.py").write_text(TEST.replace("code", "double"))
    mutant = Mutant("", "double.py", "x * 2", new, (tests,))
    assert survives(tmp_path, mutant).startswith(expected)
    assert (tmp_path / "double.py").read_text() == "def double(x):\n    return x * 2\n"
