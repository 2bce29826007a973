# SPDX-License-Identifier: Apache-2.0
"""Break one line at a time and see that its tests fail: ``python -m tests.mutants [-k WORD] [--list]``.

Every mutant is a slip that was made or could be, in a line on which results rest. The tests that must see it run on a
copy of the tree in a temporary folder; the copy is put right again, and the working tree is never touched. Exit status
1 where a mutant survives, or where its tests are red without it or do not run at all.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutant_list import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[1]
LEFT_BEHIND = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", "results", "node_modules")
TIMEOUT = 600


def copied(folder: Path) -> Path:
    """The tree without what tests do not read, in ``folder``."""
    shutil.copytree(ROOT, folder / "tree", ignore=LEFT_BEHIND)
    return folder / "tree"


def judged(tree: Path, tests: Sequence[str]) -> str:
    """What became of the tests: ``passed``, ``failed`` and which one, or why they tell nothing."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=tree, capture_output=True, text=True, timeout=TIMEOUT, check=False,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no end after {TIMEOUT} s"
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    if done.returncode == 0 and counts.get("passed"):
        return "passed"
    if done.returncode == 1 and counts.get("failed"):
        return f"failed ({', '.join(re.findall('^FAILED (.+?)(?: - |$)', done.stdout, re.MULTILINE))})"
    said = re.findall(r"^(?:E  +|ERROR:? )(.+)", done.stdout + done.stderr, re.MULTILINE)
    return f"no test was run ({said[0] if said else f'exit status {done.returncode}'})"


def survives(tree: Path, mutant: Mutant) -> str:
    """``killed``, ``SURVIVED``, or why nothing can be said; the tree is as it was afterwards."""
    path = tree / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        return f"its line occurs {text.count(mutant.old)} times"
    try:
        path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        found = judged(tree, mutant.tests)
    finally:
        path.write_text(text, encoding="utf-8")
    return "SURVIVED" if found == "passed" else "killed" if found.startswith("failed") else found


def main(words: Sequence[str] | None = None) -> int:
    """Run the mutants and print a table; 0 where all were killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.split("\n")[0])
    parser.add_argument("-k", default="", metavar="WORD", help="only the mutants that have WORD in their line or file")
    parser.add_argument("--list", action="store_true", help="name them and run nothing")
    asked = parser.parse_args(words)
    chosen = [m for m in MUTANTS if asked.k.lower() in f"{m.what} {m.file}".lower()]
    if not os.environ.get("COMFYUI_PATH"):
        chosen = [m for m in chosen if not any(test.startswith("tests/comfy/") for test in m.tests)]
        print("WITHOUT COMFYUI_PATH THE MUTANTS THAT ONLY A REAL COMFYUI SHOWS ARE LEFT OUT.")
    if asked.list:
        print("\n".join(f"{m.file}: {m.what}" for m in chosen))
        return 0
    with tempfile.TemporaryDirectory(prefix="hero-mutants-") as folder:
        tree = copied(Path(folder))
        before = judged(tree, sorted({test for mutant in chosen for test in mutant.tests}))
        if before != "passed":
            print(f"Without any mutant the tests must pass: {before}.")
            return 1
        left = 0
        for mutant in chosen:
            began = time.monotonic()
            found = survives(tree, mutant)
            left += found != "killed"
            print(f"{found:<9} {time.monotonic() - began:5.1f} s  {mutant.file}: {mutant.what}", flush=True)
    print(f"{len(chosen) - left} of {len(chosen)} mutants were killed.")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
