"""What all suites share: where things are, `--long`, and a closing summary that never hides what did not run.

`python start.py test` tells the suites where things are by these variables:
COMFYUI_PATH          the current ComfyUI
COMFYUI_OLD_PATH      the oldest one supported, where it is there
COMFYUI_OLD_FRONTEND  its own frontend, for `--front-end-root`
HERO_CHROMIUM         the browser to launch (empty: Playwright's own)
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SUITES = ("core", "comfy", "browser")


class RootIsNoPackage:
    """Keeps pytest from importing the root's `__init__.py`, which only ComfyUI can import."""

    @staticmethod
    def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes")


def pytest_configure(config: pytest.Config) -> None:
    # As a plugin and not as a hook of this file: a conftest's hooks are not asked about folders above it.
    config.pluginmanager.register(RootIsNoPackage(), "root-is-no-package")
    config.pluginmanager.register(SuiteSummary(config), "suite-summary")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    for item in items:
        if "long" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes: runs with --long"))


def suite_of(nodeid: str) -> str:
    """The suite that a test belongs to: the folder under tests/ that holds it."""
    parts = [part for part in nodeid.split("::")[0].split("/") if part != "tests"]
    return parts[0] if len(parts) > 1 else ""


class SuiteSummary:
    """Counts results and seconds for each suite, and says in capitals which suites did not run, and why."""

    def __init__(self, config: pytest.Config) -> None:
        self.root = config.rootpath
        self.asked = self._asked(config)
        self.seconds: Counter[str] = Counter()
        self.counts: dict[str, Counter[str]] = {}
        self.reasons: dict[str, Counter[str]] = {}

    @staticmethod
    def _asked(config: pytest.Config) -> list[str]:
        """The suites that were meant to run, so that an empty one is missed."""
        words = [Path(word.split("::")[0]).parts for word in config.invocation_params.args if not word.startswith("-")]
        named = [suite for suite in SUITES if any(suite in parts for parts in words)]
        return named or list(SUITES)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        suite = suite_of(report.nodeid)
        counts = self.counts.setdefault(suite, Counter())
        self.seconds[suite] += report.duration
        if report.skipped:
            counts["skipped"] += 1
            reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.reasons.setdefault(suite, Counter())[reason.removeprefix("Skipped: ")] += 1
        elif report.failed:
            counts["failed"] += 1
        elif report.when == "call":
            counts["passed"] += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        suite = suite_of(report.nodeid)
        if report.failed:
            self.counts.setdefault(suite, Counter())["failed"] += 1
        elif report.skipped:  # a whole file that skips itself
            self.counts.setdefault(suite, Counter())["skipped"] += 1
            reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.reasons.setdefault(suite, Counter())[reason.removeprefix("Skipped: ")] += 1

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # after all else, so that it stands right above pytest's last line
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
        yield
        write = terminalreporter.write_line
        terminalreporter.write_sep("=", "suites")
        write(f"{'suite':<10}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}")
        for suite in [*self.asked, *(name for name in self.counts if name not in self.asked)]:
            counts = self.counts.get(suite, Counter())
            figures = f"{counts['passed']:>8}{counts['failed']:>8}{counts['skipped']:>9}{self.seconds[suite]:>9.1f}"
            write(f"{suite or '?':<10}{figures}")
        if os.environ.get("HERO_TEST_CHECKS"):
            write(f"checks: {os.environ['HERO_TEST_CHECKS']}")
        for line in self.loud_lines():
            write(line, yellow=True, bold=True)

    def loud_lines(self) -> list[str]:
        """One line in capitals for each suite of which nothing ran, and for each thing that could not be had."""
        lines = []
        for suite in self.asked:
            counts = self.counts.get(suite, Counter())
            if counts["passed"] or counts["failed"]:
                continue
            reasons = "; ".join(self.reasons.get(suite, {})) or "no test was found"
            lines.append(f"{suite.upper()} TESTS DID NOT RUN: {reasons.upper()}")
        if os.environ.get("HERO_TEST_MISSING"):
            lines.append(f"MISSING: {os.environ['HERO_TEST_MISSING']}")
        return lines


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's folder."""
    return ROOT


@pytest.fixture(scope="session")
def chromium_launch() -> dict:
    """What to pass to Playwright's `chromium.launch`: the machine's own browser, offline, quiet, and as root too."""
    args = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    launch: dict = {"headless": True, "args": args}
    if os.environ.get("HERO_CHROMIUM"):
        launch["executable_path"] = os.environ["HERO_CHROMIUM"]
    elif Path("/usr/bin/chromium").is_file():
        launch["executable_path"] = "/usr/bin/chromium"
    return launch
