# SPDX-License-Identifier: Apache-2.0
"""The logic of the web interface (rules, keys, retries, revisions, words) by node's own test runner."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[1] / "web").glob("*.test.mjs"))
OLDEST_NODE = 18


@pytest.fixture(scope="module")
def node() -> str:
    """The program, where it is new enough to run tests."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("there is no node; the same tests run in Chromium")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    if int(re.match(r"v(\d+)", version)[1]) < OLDEST_NODE:
        pytest.skip(f"node {version.strip()} has no test runner; {OLDEST_NODE} or newer has")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.removesuffix(".test.mjs"))
def test_logic_in_node(file: Path, node: str) -> None:
    ended = subprocess.run([node, "--test", str(file)], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_each_module_without_a_page_has_its_tests(root: Path) -> None:
    modules = {path.stem: path.read_text() for path in (root / "web").glob("*.mjs")}
    logic = {name for name, text in modules.items() if "document" not in text and "./dom.mjs" not in text}
    assert logic == {file.name.removesuffix(".test.mjs") for file in FILES}
