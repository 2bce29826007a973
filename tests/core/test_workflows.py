# SPDX-License-Identifier: Apache-2.0
"""The workflows that test and publish on the repository's host: well formed, and what they call is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import start
from launch.comfyui import COMFYUI_URL
from tests.setup import OLD_COMFYUI, SUITES

yaml = pytest.importorskip("yaml", reason="comes with pre-commit")

ROOT = Path(start.__file__).resolve().parent
FILES = sorted((ROOT / ".github" / "workflows").glob("*"))
pytestmark = pytest.mark.skipif(not FILES, reason="not in this copy of the repository")


def jobs(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))["jobs"]


def commands(name: str) -> list[str]:
    return [step["run"] for job in jobs(name).values() for step in job.get("steps", ()) if "run" in step]


def test_each_workflow_is_one_as_the_host_reads_them():
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *FILES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tests_run_as_they_run_at_home():
    asked = commands("tests.yml")
    assert {"python start.py check", "python start.py test --only core", ".ci/run"} <= set(asked)
    assert "core" in SUITES
    assert {words.split()[2] for words in asked if words.startswith("python start.py")} <= set(start.COMMANDS)
    assert (ROOT / ".ci" / "run").is_file()
    (fetch,) = [words for words in asked if "git clone" in words]
    assert fetch.endswith(f'{COMFYUI_URL} "$HERO_FEEDBACK_HOME/{OLD_COMFYUI}"')
    assert f"--branch v{OLD_COMFYUI.removeprefix('ComfyUI-')} " in fetch


def test_the_one_secret_is_the_registrys_token_and_tests_pass_before_it_is_used():
    used = {path.name: re.findall(r"secrets\.(\w+)", path.read_text(encoding="utf-8")) for path in FILES}
    assert used == {"tests.yml": [], "publish.yml": ["REGISTRY_ACCESS_TOKEN"]}
    publish = jobs("publish.yml")["publish"]
    assert publish["needs"] == "tests"
    assert jobs("publish.yml")["tests"]["uses"] == "./.github/workflows/tests.yml"


@pytest.mark.parametrize("name", [path.name for path in FILES])
def test_a_workflow_may_read_and_nothing_more_unless_it_says_why(name):
    text = (ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8")
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    granted = re.findall(r"^ +\w+: write(.*)$", text, re.MULTILINE)
    assert all(why.strip().startswith("#") for why in granted)


@pytest.mark.skipif(shutil.which("bash") is None or shutil.which("grep") is None, reason="needs bash and grep")
@pytest.mark.parametrize(("tag", "code"), [("v{version}", 0), ("v9.9.9", 1)])
def test_a_tag_that_is_not_the_version_publishes_nothing(tag, code):
    (check,) = commands("publish.yml")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)[1]
    done = subprocess.run(
        ["bash", "-ec", check], cwd=ROOT, env={**os.environ, "GITHUB_REF_NAME": tag.format(version=version)},
        check=False,
    )  # fmt: skip
    assert done.returncode == code
