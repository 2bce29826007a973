#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Set up HERO Feedback on a machine that has nothing but Python, and run it. Standard library only.

    python start.py             the whole loop on the tiny model with a simulated rater
    python start.py rate        the same loop with you as the rater, in the browser
    python start.py comfyui     a real ComfyUI with this pack and the tiny workflow ready
    python start.py gpu         seconds and memory of real models, with drawn weights, on this machine's card
    python start.py test        every test
    python start.py check       the linter and the type checker alone

All of it lives in one folder, ~/.cache/hero-feedback (HERO_FEEDBACK_HOME names another): a virtual environment for each
Python version, ComfyUI, and what they need. Deleting that folder undoes everything.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from launch.comfyui import (
    COMFYUI_TAG,
    ROOT,
    address_of,
    announce,
    choose_port,
    clone_comfyui,
    comfyui_command,
    find_comfyui,
    has_gpu,
    prepare_base_directory,
    version_of,
)
from launch.environment import CORE_LAYER, Environment, comfyui_layer, home, prepare
from launch.programs import CannotStart, Terminated, option, run, say


def run_module(env: Environment, arguments: Sequence[str]) -> int:
    """Run hero_core as a program, from wherever the user stands."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return run([env.python, "-m", "hero_core", *arguments], env={"PYTHONPATH": os.pathsep.join(paths)})


def command_demo(arguments: Sequence[str]) -> int:
    env = prepare(home(), CORE_LAYER)
    out = [] if option(arguments, "--out") else ["--out", str(Path.cwd() / "hero-demo")]
    return run_module(env, ["demo", *out, *arguments])


def command_rate(arguments: Sequence[str]) -> int:
    return run_module(prepare(home(), CORE_LAYER), ["rate", *arguments])


def command_comfyui(arguments: Sequence[str]) -> int:
    base = home()
    port = choose_port(arguments)
    comfyui = find_comfyui(base) or clone_comfyui(base)
    env = prepare(base, CORE_LAYER, comfyui_layer(comfyui))
    base_directory = Path(option(arguments, "--base-directory") or base / "comfyui-base").expanduser().resolve()
    prepare_base_directory(base_directory)
    say(f"Starting ComfyUI {version_of(comfyui)} from {comfyui} …")
    command = comfyui_command(env, comfyui, base_directory, port, has_gpu(env), arguments)
    told = (address_of(arguments), port, base_directory, version_of(comfyui))
    threading.Thread(target=announce, args=told, daemon=True).start()
    return run(command, cwd=comfyui)


def command_gpu(arguments: Sequence[str]) -> int:
    base = home()
    comfyui = find_comfyui(base) or clone_comfyui(base)
    env = prepare(base, CORE_LAYER, comfyui_layer(comfyui))
    return run([env.python, ROOT / "tests" / "comfy" / "gpu.py", comfyui, ROOT, *arguments])


def command_test(arguments: Sequence[str]) -> int:
    return for_developers("command_test", arguments)


def command_check(arguments: Sequence[str]) -> int:
    return for_developers("command_check", arguments)


def for_developers(command: str, arguments: Sequence[str]) -> int:
    """Call a command of tests/setup.py: by its path, since other programs install packages named `tests`."""
    return runpy.run_path(str(ROOT / "tests" / "setup.py"))[command](arguments)


COMMANDS = {
    "demo": command_demo,
    "rate": command_rate,
    "comfyui": command_comfyui,
    "gpu": command_gpu,
    "test": command_test,
    "check": command_check,
}

HELP = f"""usage: python start.py [command] [options]

  (none)      run the whole loop on the tiny model with a simulated rater; pictures, curve and LoRA
              go to ./hero-demo (or --out FOLDER); --method nft learns by another rule
  rate        the same loop with you as the rater: opens a rating page (--port, --task, --rounds)
  comfyui     a real ComfyUI with this pack and the tiny workflow; other arguments go to ComfyUI
  gpu         seconds and memory of real models, with drawn weights, on this card
              (--out FILE; --only SDXL; --miniature)
  test        all tests: --only core|comfy|browser, --long; other arguments go to pytest (-n 0: one after the other)
  check       the linter and the type checker: check lint, check types

Set-up goes to ~/.cache/hero-feedback; HERO_FEEDBACK_HOME names another folder. COMFYUI_PATH names a ComfyUI to use
instead of {COMFYUI_TAG}, HERO_CHROMIUM a browser for the tests. `python start.py COMMAND --help` tells more."""


def dispatch(arguments: Sequence[str]) -> int:
    """Call the command that the first word names; no word, or an option first, is the demo."""
    if arguments and arguments[0] in ("-h", "--help", "help"):
        say(HELP)
        return 0
    if not arguments or arguments[0].startswith("-"):
        return command_demo(arguments)
    if arguments[0] not in COMMANDS:
        raise CannotStart(f"There is no command {arguments[0]!r}: choose one of {', '.join(COMMANDS)}.")
    return COMMANDS[arguments[0]](arguments[1:])


def _terminated(number: int, frame: object) -> None:
    raise Terminated


def main(arguments: Sequence[str] | None = None) -> int:
    """Run start.py; every foreseeable trouble ends in one sentence and an exit code, never a traceback."""
    if sys.version_info < (3, 10):  # noqa: UP036 (this is the sentence for those who have an older one)
        print("start.py needs Python 3.10 or newer, and this is %s." % sys.version.split()[0], file=sys.stderr)  # noqa: UP031
        return 1
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return dispatch(list(sys.argv[1:] if arguments is None else arguments))
    except CannotStart as reason:
        print(f"start.py: {reason}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr, flush=True)
        return 130


if __name__ == "__main__":
    sys.exit(main())
