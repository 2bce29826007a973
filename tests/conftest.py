# SPDX-License-Identifier: Apache-2.0
"""What all suites share: where things are, `--long`, and a closing summary that never hides what did not run.

`python start.py test` tells the suites where things are by these variables:
COMFYUI_PATH          the current ComfyUI
COMFYUI_OLD_PATH      the oldest one supported, where it is there
COMFYUI_OLD_FRONTEND  its own frontend, for `--front-end-root`
HERO_CHROMIUM         the browser to launch (empty: Playwright's own)
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.comfy.host import Checkout

ROOT = Path(__file__).resolve().parents[1]
SUITES = ("core", "comfy", "browser")


class RootIsNoPackage:
    """Keeps pytest from importing the root's `__init__.py`, which only ComfyUI can import."""

    @staticmethod
    def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes")
    parser.addoption("--table", type=Path, metavar="FILE.md", help="fill the file's table of attacks that were made")


def pytest_configure(config: pytest.Config) -> None:
    # As a plugin and not as a hook of this file: a conftest's hooks are not asked about folders above it.
    config.pluginmanager.register(RootIsNoPackage(), "root-is-no-package")
    config.pluginmanager.register(SuiteSummary(config), "suite-summary")
    config.pluginmanager.register(AttackTable(config.getoption("--table")), "attack-table")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
        if "long" in item.keywords and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: runs with --long"))


def group_of(item: pytest.Item) -> str:
    """What one worker does alone: all tests of one ComfyUI, so that it is booted once, or else the tests of a file."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return parameters["checkout"].version if parameters.get("checkout") else item.path.stem


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


ATTACKS = {
    "kills": "kills with SIGKILL, each followed by going on",
    "faults": "faults injected into file operations",
    "damaged": "files damaged (cut off, bits flipped, emptied, removed, of a future version)",
    "requests": "hostile HTTP requests",
    "prompts": "fuzzed workflows queued",
    "scripts": "texts with scripts shown in a browser",
    "rounds": "rounds in long runs",
}
"""What the fixture ``tally`` counts, with the words of the table."""


class AttackTable:
    """Adds up what the tests did by :func:`tally`, and fills the table between the marks of a Markdown file.

    Of what was not done this time the rows stay as they are.
    """

    HEAD = ("| what | suite | how many | tests failed |", "| --- | --- | --- | --- |")

    def __init__(self, page: Path | None) -> None:
        self.page = page
        self.done: Counter[tuple[str, str]] = Counter()
        self.failed: Counter[tuple[str, str]] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        for kind, count in report.user_properties:
            if kind in ATTACKS:
                self.done[kind, suite_of(report.nodeid)] += count
                self.failed[kind, suite_of(report.nodeid)] += bool(report.failed)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workerinput"):  # one of several processes: the first one hears of all tests
            return
        if self.page is None or not self.page.is_file():
            return
        text = self.page.read_text(encoding="utf-8")
        lines = []
        for kind, words in ATTACKS.items():
            for suite in SUITES:
                start = f"| {words} | {suite} |"
                if self.done[kind, suite]:
                    lines.append(f"{start} {self.done[kind, suite]:,} | {self.failed[kind, suite]} |")
                else:
                    lines += [line for line in text.splitlines() if line.startswith(start)]
        table = "\n".join([*self.HEAD, *lines])
        filled = re.sub(
            r"(<!-- attacks -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{table}\n{m[2]}", text, flags=re.DOTALL
        )
        self.page.write_text(filled, encoding="utf-8")


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """``tally("kills", 40)`` tells what the test did, for the table of attacks; the kinds are :data:`ATTACKS`."""

    def add(kind: str, count: int) -> None:
        assert kind in ATTACKS, f"{kind!r} is none of {', '.join(ATTACKS)}"
        record_property(kind, count)

    return add


@pytest.fixture(scope="module")
def newest(checkout: Checkout, request: pytest.FixtureRequest) -> None:
    """For long tests of what is the same on both, as the store is: the oldest ComfyUI comes with ``--long``."""
    if checkout.oldest and not request.config.getoption("--long"):
        pytest.skip("on the oldest ComfyUI: runs with --long")


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
        "--host-resolver-rules=MAP *.lan 127.0.0.1",  # names of a local network, for which a browser promises nothing
    ]
    launch: dict = {"headless": True, "args": args}
    if os.environ.get("HERO_CHROMIUM"):
        launch["executable_path"] = os.environ["HERO_CHROMIUM"]
    elif Path("/usr/bin/chromium").is_file():
        launch["executable_path"] = "/usr/bin/chromium"
    return launch
