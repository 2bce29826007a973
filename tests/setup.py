# SPDX-License-Identifier: Apache-2.0
"""The test and check commands of start.py: the test tools, Chromium, an old ComfyUI. Standard library only."""

from __future__ import annotations

import argparse
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.comfyui import clone_comfyui, find_comfyui
from launch.environment import CORE_LAYER, Environment, Layer, comfyui_layer, home, pip, prepare, why_pip_failed
from launch.programs import CannotStart, capture, last_line, run, say

ROOT = Path(__file__).resolve().parents[1]

TEST = (
    "pytest>=8", "pytest-timeout", "pytest-asyncio", "pytest-xdist", "hypothesis", "schemathesis", "diffusers",
    "gguf", "peft", "playwright", "ruff", "mypy", "pre-commit", "check-jsonschema",
)  # fmt: skip
OLD_COMFYUI = "ComfyUI-0.3.64"
SUITES = ("core", "comfy", "browser")
TEST_LAYER = Layer("test", "the test tools", TEST)
CHECKS = {"lint": ("ruff", "check", "."), "types": ("mypy",)}


# --- Chromium ---------------------------------------------------------------------------------------------------------

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "msedge")
BROWSER_FILES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)


def find_browser(environ: Mapping[str, str] = os.environ) -> Path | None:
    """A Chromium of this machine: HERO_CHROMIUM, else one on PATH, else one where systems put it."""
    named = environ.get("HERO_CHROMIUM")
    if named:
        if not Path(named).is_file():
            raise CannotStart(f"HERO_CHROMIUM is {named}, which is no file: set it to a Chromium or Chrome program.")
        return Path(named)
    on_path = (shutil.which(name) for name in BROWSERS)
    return next((Path(name) for name in (*on_path, *BROWSER_FILES) if name and Path(name).is_file()), None)


def get_browser(env: Environment) -> str:
    """The program to pass to Playwright; empty if it has its own; raises CannotStart if there is none."""
    found = find_browser()
    if found is None and shutil.which("apt-get") and getattr(os, "geteuid", lambda: 1)() == 0:
        say("Installing Chromium with apt-get …")
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        capture(["apt-get", "update", "-qq"], env=quiet)
        watch_code, _ = capture(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"], env=quiet)
        found = find_browser() if watch_code == 0 else None
    if found is not None:
        return str(found)
    code, output = capture([env.python, "-m", "playwright", "install", "chromium"])
    if code != 0:
        raise CannotStart(f"No Chromium was found ({last_line(output)}): install Chromium, Chrome or Edge.")
    return ""


def command_check(arguments: Sequence[str]) -> int:
    """Run the linter and the type checker, or the one that is named."""
    named = [word for word in arguments if word in CHECKS]
    if len(named) != len(arguments):
        raise CannotStart(f"check knows {' and '.join(CHECKS)}, not {' '.join(arguments)!r}.")
    env = prepare(home(), CORE_LAYER, TEST_LAYER)
    return max([run([env.python, "-m", *CHECKS[name]], cwd=ROOT) for name in named or CHECKS])


@dataclass(frozen=True)
class Plan:
    """What of the tests runs here: the suites' names, and what they need, as variables for pytest alone."""

    suites: tuple[str, ...]
    variables: dict[str, str]
    missing: tuple[str, ...]


def command_test(arguments: Sequence[str]) -> int:
    """Run linter, type checker and tests; 0 only if all of them are clean."""
    parser = argparse.ArgumentParser(
        prog="start.py test", description="Set up and run all tests. Other arguments go to pytest."
    )
    parser.add_argument("--long", action="store_true", help="also the tests that take minutes")
    parser.add_argument("--only", choices=SUITES, action="append", help="this suite alone (may be given twice)")
    known, extra = parser.parse_known_args(arguments)
    env, plan = plan_tests(home(), tuple(known.only or SUITES))
    checks = {name: run([env.python, "-m", *CHECKS[name]], cwd=ROOT) for name in CHECKS}
    results = [f"{CHECKS[name][0]} {'FAILED' if code else 'ok'}" for name, code in checks.items()]
    told = {
        "HERO_TEST_CHECKS": ", ".join(results),
        "HERO_TEST_MISSING": " ".join(plan.missing),
        # tests, ComfyUI and browser share the cores
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    code = run(pytest_command(env, plan.suites, known.long, extra), env={**plan.variables, **told}, cwd=ROOT)
    return code or max(checks.values())


def pytest_command(env: Environment, suites: Sequence[str], long: bool, extra: Sequence[str]) -> list[str]:
    """The command line of pytest; a suite whose folder is not there is left to the summary to name."""
    paths = [f"tests/{suite}" for suite in suites if (ROOT / "tests" / suite).is_dir()]
    return [str(env.python), "-m", "pytest", *paths, *SIDE_BY_SIDE, *(["--long"] if long else []), *extra]


SIDE_BY_SIDE = ("-n", "2", "--dist", "loadgroup")
"""Two workers, since there are two versions of ComfyUI: each boots one, and who is done first does the rest."""


def plan_tests(base: Path, suites: tuple[str, ...]) -> tuple[Environment, Plan]:
    """Set up what the suites need; what cannot be had is named in the plan, and its tests skip."""
    layers, variables, missing = [CORE_LAYER, TEST_LAYER], {}, []
    if set(suites) & {"comfy", "browser"}:
        try:
            comfyui = find_comfyui(base) or clone_comfyui(base)
            layers.insert(1, comfyui_layer(comfyui))
            variables["COMFYUI_PATH"] = str(comfyui)
        except CannotStart as reason:
            missing.append(str(reason))
    env = prepare(base, *layers)
    if "COMFYUI_PATH" in variables:
        variables.update(old_comfyui(env, base))
    if "browser" in suites:  # the standalone rating page needs no ComfyUI
        try:
            variables["HERO_CHROMIUM"] = get_browser(env)
        except CannotStart as reason:
            missing.append(str(reason))
    for sentence in missing:
        say(sentence)
    return env, Plan(suites, variables, tuple(missing))


def old_comfyui(env: Environment, base: Path) -> dict[str, str]:
    """The variables that name the oldest ComfyUI supported and its own frontend, where that ComfyUI is there."""
    folder = base / OLD_COMFYUI
    if not (folder / "main.py").is_file():
        return {}
    version = frontend_version((folder / "requirements.txt").read_text(encoding="utf-8"))
    target = base / "frontends" / version
    if not (target / "comfyui_frontend_package" / "static").is_dir():
        say(f"Installing the frontend {version} of {OLD_COMFYUI} …")
        wanted = ["--no-deps", "--target", str(target), f"comfyui-frontend-package=={version}"]
        code, output = pip(env, wanted, "frontend", base / "logs")
        if code != 0:
            say(why_pip_failed(output, "frontend", base / "logs"))
            return {}
    static = target / "comfyui_frontend_package" / "static"
    return {"COMFYUI_OLD_PATH": str(folder), "COMFYUI_OLD_FRONTEND": str(static)}


def frontend_version(requirements: str) -> str:
    """The frontend release that a ComfyUI's requirements.txt pins."""
    found = re.search(r"^comfyui-frontend-package==(\S+)", requirements, re.MULTILINE)
    if not found:
        raise CannotStart(f"{OLD_COMFYUI}/requirements.txt pins no comfyui-frontend-package: fetch that release anew.")
    return found[1]
