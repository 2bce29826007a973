# SPDX-License-Identifier: Apache-2.0
"""The test command of start.py: what it looks for and where, its command lines, and the summary that closes a run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launch import environment, programs
from tests import setup

ROOT = Path(setup.__file__).resolve().parents[1]

# --- Tests and browser ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["chromium", "msedge"])
def test_a_browser_that_is_named_comes_before_one_that_is_found(named, tmp_path, monkeypatch):
    program = tmp_path / named
    program.touch()
    monkeypatch.setattr(setup.shutil, "which", lambda name: str(program) if name == named else None)
    assert setup.find_browser({}) == program
    mine = tmp_path / "mine"
    mine.touch()
    assert setup.find_browser({"HERO_CHROMIUM": str(mine)}) == mine
    with pytest.raises(programs.CannotStart, match="which is no file"):
        setup.find_browser({"HERO_CHROMIUM": str(tmp_path / "typo")})


def test_the_test_command_names_the_suites_and_passes_the_rest(monkeypatch, tmp_path):
    for suite in setup.SUITES:
        (tmp_path / "tests" / suite).mkdir(parents=True)
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    env = environment.Environment(Path("/env"))
    command = setup.pytest_command(env, ("core", "comfy"), True, ["-k", "x"])
    side_by_side = ["-n", "2", "--dist", "loadgroup"]
    assert command[1:] == ["-m", "pytest", "tests/core", "tests/comfy", *side_by_side, "--long", "-k", "x"]
    (tmp_path / "tests" / "comfy").rmdir()
    assert setup.pytest_command(env, ("core", "comfy"), False, [])[3:] == ["tests/core", *side_by_side]


def test_tests_go_on_without_comfyui_and_say_what_is_missing(tmp_path, monkeypatch):
    def no_network(base):
        raise programs.CannotStart("ComfyUI could not be fetched (fatal): check the network.")

    prepared = []
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(setup, "clone_comfyui", no_network)
    monkeypatch.setattr(setup, "get_browser", lambda env: "/usr/bin/chromium")
    monkeypatch.setattr(setup, "prepare", lambda base, *layers: prepared.extend(layers))
    _, plan = setup.plan_tests(tmp_path, setup.SUITES)
    assert [layer.name for layer in prepared] == ["core", "test"]
    assert plan.missing == ("ComfyUI could not be fetched (fatal): check the network.",)
    assert plan.variables == {"HERO_CHROMIUM": "/usr/bin/chromium"}  # the standalone page is tested all the same


def test_the_core_suite_alone_needs_neither_comfyui_nor_browser(tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "find_comfyui", lambda base: pytest.fail("asked for ComfyUI"))
    monkeypatch.setattr(setup, "get_browser", lambda env: pytest.fail("asked for a browser"))
    monkeypatch.setattr(setup, "prepare", lambda base, *layers: None)
    assert setup.plan_tests(tmp_path, ("core",))[1] == setup.Plan(("core",), {}, ())


@pytest.mark.parametrize(("checks", "tests", "code"), [((0, 0), 0, 0), ((1, 0), 0, 1), ((0, 0), 1, 1), ((0, 2), 5, 5)])
def test_any_failure_makes_the_exit_code_a_failure(checks, tests, code, monkeypatch):
    codes, told = [*checks, tests], []

    def run(command, env=None, cwd=None):
        told.append(env or {})
        return codes.pop(0)

    plan = setup.Plan(("core",), {"COMFYUI_PATH": "/c"}, ("No Chromium.",))
    monkeypatch.setattr(setup, "plan_tests", lambda base, suites: (environment.Environment(Path("/env")), plan))
    monkeypatch.setattr(setup, "run", run)
    assert setup.command_test([]) == code
    assert told[-1]["COMFYUI_PATH"] == "/c"
    assert told[-1]["HERO_TEST_MISSING"] == "No Chromium."
    assert ("FAILED" in told[-1]["HERO_TEST_CHECKS"]) == any(checks)
    assert "COMFYUI_PATH" not in os.environ or os.environ["COMFYUI_PATH"] != "/c"


def test_the_old_frontend_is_the_one_that_its_comfyui_pins():
    assert setup.frontend_version("# x\ncomfyui-frontend-package==1.27.10\ntorch\n") == "1.27.10"
    with pytest.raises(programs.CannotStart, match="pins no comfyui-frontend-package"):
        setup.frontend_version("torch\n")


def test_an_old_comfyui_without_its_frontend_gets_it_beside_the_environment(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(setup, "pip", lambda env, words, label, logs: asked.append(words) or (0, ""))
    env, folder = environment.Environment(tmp_path / "env"), tmp_path / setup.OLD_COMFYUI
    folder.mkdir()
    (folder / "main.py").touch()
    (folder / "requirements.txt").write_text("comfyui-frontend-package==1.27.10\n")
    target = tmp_path / "frontends" / "1.27.10"
    variables = setup.old_comfyui(env, tmp_path)
    assert asked == [["--no-deps", "--target", str(target), "comfyui-frontend-package==1.27.10"]]
    static = target / "comfyui_frontend_package" / "static"
    assert variables == {"COMFYUI_OLD_PATH": str(folder), "COMFYUI_OLD_FRONTEND": str(static)}
    assert setup.old_comfyui(env, tmp_path / "nowhere") == {}


# --- The closing summary ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_repository(tmp_path: Path) -> Path:
    """A folder like this one: a root that only ComfyUI can import, and one test file in each of two suites."""
    (tmp_path / "__init__.py").write_text("from .nowhere import nothing\n")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '--import-mode=importlib'\n")
    (tmp_path / "tests" / "core").mkdir(parents=True)
    (tmp_path / "tests" / "comfy").mkdir()
    (tmp_path / "tests" / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    (tmp_path / "tests" / "core" / "test_a.py").write_text(
        "import pytest\n\ndef test_yes(): pass\n\n@pytest.mark.long\ndef test_long(): assert False\n"
    )
    (tmp_path / "tests" / "comfy" / "test_a.py").write_text(
        "import pytest\n\npytestmark = pytest.mark.skip(reason='no ComfyUI was found')\ndef test_x(): pass\n"
    )
    return tmp_path


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", *arguments]
    env = {**os.environ, "HERO_TEST_MISSING": "Get a browser."}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_the_summary_counts_each_suite_and_shouts_what_did_not_run(small_repository):
    done = pytest_in(small_repository, "tests/core", "tests/comfy")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^core +1 +0 +1 ", done.stdout, re.MULTILINE)
    assert re.search(r"^comfy +0 +0 +1 ", done.stdout, re.MULTILINE)
    assert "COMFY TESTS DID NOT RUN: NO COMFYUI WAS FOUND" in done.stdout
    assert "MISSING: Get a browser." in done.stdout
    assert done.stdout.index("short test summary") < done.stdout.index("COMFY TESTS DID NOT RUN")  # where it is read
    assert "CORE TESTS DID NOT RUN" not in done.stdout
    assert re.search(r"1 passed, 2 skipped", done.stdout.strip().splitlines()[-1])


def test_a_suite_that_is_not_there_is_missed(small_repository):
    done = pytest_in(small_repository)
    assert "BROWSER TESTS DID NOT RUN: NO TEST WAS FOUND" in done.stdout


def test_long_tests_run_only_when_asked(small_repository):
    done = pytest_in(small_repository, "tests/core", "--long")
    assert done.returncode == 1
    assert re.search(r"^core +1 +1 +0 ", done.stdout, re.MULTILINE)
    assert "COMFY TESTS" not in done.stdout
