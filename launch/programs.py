# SPDX-License-Identifier: Apache-2.0
"""Other programs: run, watched, stopped, and what start.py says of them. Standard library only."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO


class CannotStart(Exception):
    """What is missing and how to get it, in one sentence."""


class Terminated(KeyboardInterrupt):
    """Another program asked this one to end (SIGTERM); its children have not heard of it."""


def say(sentence: str) -> None:
    print(sentence, flush=True)


PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""PyTorch's threads sleep while they wait for each other, unless the user has said otherwise.

Measured by `python -m tests.waiting` on 2 cores: beside one or two busy programs 5 to 18 times as many passes of the
tiny UNet. At best, with nothing else running, 56 passes a second against 39 for one picture, and 32 against 49 for
eight: a third is the price there.
"""


def run(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> int:
    """Run a program on this terminal and return its exit code; `env` is added to ours for it alone."""
    words = [str(word) for word in command]
    child = subprocess.Popen(words, env={**PATIENT, **os.environ, **(env or {})}, cwd=cwd)
    try:
        code = child.wait()
    except KeyboardInterrupt as interrupt:
        stop(child, heard=not isinstance(interrupt, Terminated))
        raise
    return code if code >= 0 else 128 - code


def stop(child: subprocess.Popen, *, heard: bool) -> None:
    """End a child: Ctrl+C has reached it through the terminal (`heard`), anything else has not."""
    try:
        if not heard:
            child.terminate()
        child.wait(timeout=15)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.kill()
        child.wait()


def capture(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a program in silence; return its exit code and all that it wrote."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace", check=False,
        )  # fmt: skip
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout


def watch(command: Sequence[str | Path], label: str) -> tuple[int, str]:
    """Like `capture`, with one line on the terminal that tells what goes on and for how long."""
    words = [str(word) for word in command]
    child = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read_lines, args=(child.stdout, lines), daemon=True).start()
    try:
        output = _show_lines(lines, label)
        return child.wait(), output
    except KeyboardInterrupt as interrupt:
        stop(child, heard=not isinstance(interrupt, Terminated))
        raise


def _read_lines(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _show_lines(lines: queue.Queue[str | None], label: str) -> str:
    shown, read, start = sys.stdout.isatty(), [], time.monotonic()
    doing = ""
    while True:
        try:
            line = lines.get(timeout=1.0)
        except queue.Empty:
            line = ""
        if line is None:
            break
        read.append(line)
        doing = activity(line) or doing
        if shown:
            text = f"  {label}: {time.monotonic() - start:4.0f} s  {doing}"
            print("\r" + text[: shutil.get_terminal_size().columns - 1].ljust(79)[:200], end="", flush=True)
    if shown:
        print("\r" + " " * min(199, shutil.get_terminal_size().columns - 1) + "\r", end="", flush=True)
    return "".join(read)


def activity(line: str) -> str:
    """What pip says that it does, in two or three words; empty for a line that tells nothing.

    >>> activity("  Downloading https://files.invalid/torch-2.11.0-cp311.whl (900.1 MB)")
    'downloading torch-2.11.0-cp311.whl (900.1 MB)'
    """
    words = line.split()
    if len(words) < 2 or words[0] not in ("Collecting", "Downloading", "Installing", "Building"):
        return ""
    if words[0] == "Installing":
        return "installing"
    size = " ".join(words[2:4]) if len(words) >= 4 and words[2].startswith("(") else ""
    return f"{words[0].lower()} {words[1].rsplit('/', 1)[-1]} {size}".rstrip()


def last_line(output: str) -> str:
    """The last line that says something, an ERROR line before any other."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR:", "E:", "fatal:"))]
    return (errors or lines or ["it said nothing"])[-1].rstrip(".")


def option(arguments: Sequence[str], name: str) -> str | None:
    """The value of an option in a list of arguments (`--port 8200` or `--port=8200`), if it is there."""
    for i, word in enumerate(arguments):
        if word == name and i + 1 < len(arguments):
            return arguments[i + 1]
        if word.startswith(name + "="):
            return word.split("=", 1)[1]
    return None
