#!/usr/bin/env python3
"""Set up HERO Feedback on a machine that has nothing but Python, and run it. Standard library only.

    python start.py             the whole loop on the tiny model with a simulated rater
    python start.py rate        the same loop with you as the rater, in the browser
    python start.py comfyui     a real ComfyUI with this pack and the tiny workflow ready
    python start.py test        every test
    python start.py check       the linter and the type checker alone

All of it lives in one folder, ~/.cache/hero-feedback (HERO_FEEDBACK_HOME names another): a virtual environment for each
Python version, ComfyUI, and what they need. Deleting that folder undoes everything.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent

# torch and its two companions must be of one release: no torchaudio newer than this one has its torch.
TORCH = "torch==2.11.0"
TORCH_TRIO = (TORCH, "torchvision==0.26.0", "torchaudio==2.11.0")
CORE = (TORCH, "numpy", "safetensors", "filelock", "peft", "pillow", "aiohttp", "tqdm", "rich", "matplotlib")
TEST = (
    "pytest>=8", "pytest-timeout", "pytest-asyncio", "pytest-xdist", "hypothesis", "schemathesis", "playwright", "ruff",
    "mypy", "pre-commit",
)  # fmt: skip

COMFYUI_URL = "https://github.com/comfyanonymous/ComfyUI.git"
COMFYUI_TAG = "v0.33.0"
OLD_COMFYUI = "ComfyUI-0.3.64"
SUITES = ("core", "comfy", "browser")

NETWORK_TROUBLE = (
    "NewConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
    "NameResolutionError",
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "Network is unreachable",
    "Could not resolve host",
    "unable to access",
    "Connection refused",
    "Connection timed out",
    "SSLError",
)


class CannotStart(Exception):
    """What is missing and how to get it, in one sentence."""


class Terminated(KeyboardInterrupt):
    """Another program asked this one to end (SIGTERM); its children have not heard of it."""


def say(sentence: str) -> None:
    print(sentence, flush=True)


# --- Other programs ---------------------------------------------------------------------------------------------------


def run(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> int:
    """Run a program on this terminal and return its exit code; `env` is added to ours for it alone."""
    words = [str(word) for word in command]
    child = subprocess.Popen(words, env={**os.environ, **(env or {})}, cwd=cwd)
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


# --- The environment --------------------------------------------------------------------------------------------------


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder that holds everything that is set up here."""
    named = environ.get("HERO_FEEDBACK_HOME")
    return Path(named).expanduser().resolve() if named else Path.home() / ".cache" / "hero-feedback"


@dataclass(frozen=True)
class Layer:
    """A set of packages that is installed together, and once.

    `requirements` are pip's own specifiers; `file` is a requirements.txt that counts by its content.
    """

    name: str
    says: str
    requirements: tuple[str, ...]
    file: Path | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]+", self.name):
            raise ValueError(f"layer name {self.name!r} must be lower-case letters: it names a file")

    def digest(self, python: str) -> str:
        """The stamp of this layer for a Python version: another list of packages gives another stamp."""
        content = self.file.read_text(encoding="utf-8") if self.file else None
        return hashlib.sha256(repr([python, self.requirements, content]).encode()).hexdigest()

    def arguments(self, *, pinned: bool = True) -> list[str]:
        """What pip is asked for; not `pinned` lets pip choose the release of torch and its companions."""
        names = self.requirements if pinned else tuple(unpinned(name) for name in self.requirements)
        return [*names, *(["-r", str(self.file)] if self.file else [])]


def unpinned(requirement: str) -> str:
    """A torch requirement without its version; any other as it is."""
    return requirement.split("==")[0] if requirement in TORCH_TRIO else requirement


CORE_LAYER = Layer("core", "PyTorch and 9 more packages (on Linux about 3 GB to download, a few minutes)", CORE)
TEST_LAYER = Layer("test", "the test tools", TEST)


def comfyui_layer(comfyui: Path) -> Layer:
    return Layer("comfyui", "what ComfyUI needs", TORCH_TRIO, comfyui / "requirements.txt")


@dataclass(frozen=True)
class Environment:
    """A virtual environment in a folder of its own."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def stamp(self, name: str) -> Path:
        return self.folder / f".hero-{name}.stamp"

    def has(self, name: str, digest: str) -> bool:
        """Whether this layer was installed, and with just this list of packages."""
        try:
            return self.stamp(name).read_text(encoding="utf-8").strip() == digest
        except OSError:
            return False

    def mark(self, name: str, digest: str) -> None:
        """Note that a layer is installed; a stop in the middle leaves no half a note."""
        beside = self.stamp(name).with_suffix(".new")
        beside.write_text(digest + "\n", encoding="utf-8")
        beside.replace(self.stamp(name))


def environment(base: Path) -> Environment:
    """The environment of the running Python's version; a folder's name keeps versions apart."""
    return Environment(base / f"env-py{sys.version_info.major}{sys.version_info.minor}")


def prepare(base: Path, *layers: Layer) -> Environment:
    """Make the environment and install the layers that are not there yet; nothing to do costs no time."""
    env, python = environment(base), f"{sys.version_info.major}.{sys.version_info.minor}"
    try:
        base.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(base / "setup.lock"):
            make(env)
            for layer in layers:
                install(env, layer, layer.digest(python), base / "logs")
    except OSError as error:
        raise CannotStart(
            f"{error.filename or base} cannot be used ({error.strerror}): free or repair it, or set HERO_FEEDBACK_HOME "
            "to another folder, and start again."
        ) from error
    return env


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, so that two starts do not install into one environment."""
    with path.open("a+b") as file:
        if not _try_lock(file.fileno()):
            say("Another start.py is setting up; waiting for it.")
            while not _try_lock(file.fileno()):
                time.sleep(0.5)
        yield


def _try_lock(number: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(number, 0, os.SEEK_SET)
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def make(env: Environment) -> None:
    """Make the virtual environment, or take one that works and was made by hand."""
    if env.python.exists():
        if env.stamp("venv").exists():
            return
        if capture([env.python, "-m", "pip", "--version"])[0] == 0:
            env.mark("venv", "adopted")
            return
    say(f"Making a virtual environment in {env.folder}")
    code, output = capture([sys.executable, "-m", "venv", "--clear", env.folder])
    if code != 0:
        raise CannotStart(why_no_venv(output))
    env.mark("venv", "made")


def why_no_venv(output: str) -> str:
    """One sentence for a virtual environment that could not be made."""
    if "ensurepip" in output or "No module named venv" in output:
        package = f"python3.{sys.version_info.minor}-venv"
        return (
            f"This Python cannot make virtual environments: install {package} "
            f"(on Debian or Ubuntu: sudo apt-get install {package}), and start again."
        )
    return f"The virtual environment could not be made ({last_line(output)}): repair that, and start again."


def install(env: Environment, layer: Layer, digest: str, logs: Path) -> None:
    """Install one layer with pip unless its stamp says that it is there."""
    if env.has(layer.name, digest):
        return
    say(f"Installing {layer.says} …")
    started = time.monotonic()
    code, output = pip(env, layer.arguments(), layer.name, logs)
    if code != 0 and torch_is_missing(output):
        say(f"There is no {TORCH} for this machine, so the newest release that there is will do.")
        code, output = pip(env, layer.arguments(pinned=False), layer.name, logs)
    if code != 0:
        raise CannotStart(why_pip_failed(output, layer.name, logs))
    env.mark(layer.name, digest)
    say(f"Installed {layer.says.split(' (')[0]} in {time.monotonic() - started:.0f} s.")


def pip(env: Environment, arguments: Sequence[str], label: str, logs: Path) -> tuple[int, str]:
    """Call the environment's pip to install; what it wrote is kept in `logs`."""
    code, output = watch([env.python, *PIP, *arguments], label)
    logs.mkdir(parents=True, exist_ok=True)
    (logs / f"pip-{label}.log").write_text(output, encoding="utf-8")
    return code, output


PIP = ("-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off")


def torch_is_missing(output: str) -> bool:
    """Whether pip failed because this release of torch (or a companion) is not built for this machine."""
    if any(sign in output for sign in NETWORK_TROUBLE):
        return False
    return any(f"No matching distribution found for {name}" in output for name in TORCH_TRIO)


def why_pip_failed(output: str, label: str, logs: Path) -> str:
    """One sentence for packages that could not be installed."""
    if any(sign in output for sign in NETWORK_TROUBLE):
        return (
            "The package index cannot be reached: check the network (or pip's proxy settings) and start again; "
            "what is installed already stays."
        )
    if "No space left on device" in output:
        return "The disk is full: free about 8 GB, or set HERO_FEEDBACK_HOME to a folder on another disk."
    missing = re.search(r"No matching distribution found for (\S+)", output)
    if missing:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return (
            f"There is no {missing[1]} for Python {version} on this machine: "
            "run start.py with a Python from 3.10 to 3.13."
        )
    return f"pip could not install the {label} packages ({last_line(output)}); its log is {logs / f'pip-{label}.log'}."


def last_line(output: str) -> str:
    """The last line that says something, an ERROR line before any other."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR:", "E:", "fatal:"))]
    return (errors or lines or ["it said nothing"])[-1].rstrip(".")


# --- ComfyUI ----------------------------------------------------------------------------------------------------------


def find_comfyui(base: Path, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The ComfyUI to use: COMFYUI_PATH, else the one in `base`, else none."""
    named = environ.get("COMFYUI_PATH")
    if named:
        folder = Path(named).expanduser().resolve()
        if not (folder / "main.py").is_file():
            raise CannotStart(f"COMFYUI_PATH is {named}, which holds no main.py: set it to ComfyUI's own folder.")
        return folder
    folder = base / "ComfyUI"
    return folder if (folder / "main.py").is_file() else None


def clone_comfyui(base: Path) -> Path:
    """Fetch the pinned release of ComfyUI; a broken download leaves nothing behind."""
    remedy = f"download ComfyUI {COMFYUI_TAG} by hand and set COMFYUI_PATH to its folder"
    if shutil.which("git") is None:
        raise CannotStart(f"git is not installed: install it, or {remedy}.")
    target, partial = base / "ComfyUI", base / "ComfyUI.partial"
    shutil.rmtree(partial, ignore_errors=True)
    base.mkdir(parents=True, exist_ok=True)
    say(f"Fetching ComfyUI {COMFYUI_TAG} into {target}")
    command = ["git", "clone", "--quiet", "--depth", "1", "--branch", COMFYUI_TAG, COMFYUI_URL]
    code, output = capture([*command, partial], env={"GIT_TERMINAL_PROMPT": "0"})
    if code != 0:
        shutil.rmtree(partial, ignore_errors=True)
        raise CannotStart(f"ComfyUI could not be fetched ({last_line(output)}): check the network, or {remedy}.")
    partial.rename(target)
    return target


def version_of(comfyui: Path) -> str:
    """ComfyUI's version as it states it, or 'of unknown version'."""
    try:
        text = (comfyui / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        return "of unknown version"
    found = re.search(r'__version__\s*=\s*"([^"]+)"', text)
    return found[1] if found else "of unknown version"


def prepare_base_directory(folder: Path) -> None:
    """The folder ComfyUI works in: this pack among its custom nodes, the tiny workflow among the user's."""
    workflows = folder / "user" / "default" / "workflows"
    for inner in (folder / "custom_nodes", folder / "models" / "loras", folder / "input", folder / "output", workflows):
        inner.mkdir(parents=True, exist_ok=True)
    link_pack(folder / "custom_nodes" / "hero-feedback")
    example = ROOT / "examples" / "hero_tiny.json"
    if example.is_file() and not (workflows / example.name).exists():
        shutil.copyfile(example, workflows / example.name)


def link_pack(link: Path) -> None:
    """Show this folder under ComfyUI's custom nodes: a link, on Windows a junction, else a fresh copy."""
    if link.is_symlink() or link.exists():
        if link.resolve() == ROOT:
            return
        remove_link(link)
    try:
        if sys.platform == "win32":
            import _winapi

            _winapi.CreateJunction(str(ROOT), str(link))
        else:
            link.symlink_to(ROOT, target_is_directory=True)
    except OSError:
        shutil.copytree(ROOT, link, ignore=shutil.ignore_patterns(".git", "tests", "docs", "__pycache__"))


def remove_link(link: Path) -> None:
    """Remove a link, a junction or a copy, and never what it points to."""
    if link.is_symlink():
        link.unlink()
        return
    try:
        link.rmdir()  # a junction goes, its target stays
    except OSError:
        shutil.rmtree(link)


def has_gpu(env: Environment) -> bool:
    """Whether the environment's torch sees a device other than the CPU."""
    code, output = capture([env.python, "-c", GPU_QUESTION])
    return code == 0 and output.split()[-1:] == ["True"]


GPU_QUESTION = (
    "import torch; xpu = getattr(torch, 'xpu', None); "
    "print(torch.cuda.is_available() or torch.backends.mps.is_available() or bool(xpu and xpu.is_available()))"
)


def option(arguments: Sequence[str], name: str) -> str | None:
    """The value of an option in a list of arguments (`--port 8200` or `--port=8200`), if it is there."""
    for i, word in enumerate(arguments):
        if word == name and i + 1 < len(arguments):
            return arguments[i + 1]
        if word.startswith(name + "="):
            return word.split("=", 1)[1]
    return None


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether no program answers on this port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) != 0


def choose_port(arguments: Sequence[str], first: int = 8188) -> int:
    """The port that was asked for, which must be free; else the first free one from ComfyUI's own on."""
    asked = option(arguments, "--port")
    if asked is None:
        port = next((port for port in range(first, first + 100) if is_free(port)), None)
        if port is None:
            raise CannotStart(f"No port from {first} to {first + 99} is free: name another with --port.")
        return port
    if not asked.isdigit() or not 0 < int(asked) < 65536:
        raise CannotStart(f"--port is {asked!r}: give a number from 1 to 65535.")
    if not is_free(int(asked)):
        raise CannotStart(f"Port {asked} is taken by another program: name another with --port, or leave it out.")
    return int(asked)


def comfyui_command(
    env: Environment, comfyui: Path, base_directory: Path, port: int, gpu: bool, extra: Sequence[str]
) -> list[str]:
    """The command line of ComfyUI: ours first, so that the user's own arguments win."""
    ours = ["--base-directory", str(base_directory)]
    if option(extra, "--database-url") is None:  # its own default lies in ComfyUI's folder, which may be another's
        ours += ["--database-url", f"sqlite:///{(base_directory / 'user' / 'comfyui.db').as_posix()}"]
    if option(extra, "--port") is None:
        ours += ["--port", str(port)]
    if not gpu and not any(word.startswith(("--cpu", "--directml")) for word in extra):
        ours += ["--cpu"]
    return [str(env.python), str(comfyui / "main.py"), *ours, *extra]


def address_of(arguments: Sequence[str]) -> str:
    """Where a browser on this machine finds a server that was started with these arguments."""
    host = (option(arguments, "--listen") or "").split(",")[0]
    return host if host and host != "0.0.0.0" and re.fullmatch(r"[\w.-]+", host) else "127.0.0.1"  # noqa: S104


def announce(host: str, port: int, base_directory: Path, version: str) -> None:
    """Wait for ComfyUI to answer, then say where it is and what to click."""
    until = time.monotonic() + 600
    while is_free(port, host):
        if time.monotonic() > until:
            return
        time.sleep(0.5)
    say(
        f"""
ComfyUI {version} is ready: http://{host}:{port}
  1. Open that address. Press W for the list of workflows and open hero_tiny.
  2. Press Run. After some seconds 64 pictures stand in the Feedback Grid node.
  3. Mark them: G good, B bad, S the best one, arrows to move. Submit with Ctrl+Enter, then Run for the next round.
The LoRA of every round is saved in {base_directory / "models" / "loras" / "hero"}
Ctrl+C in this window stops ComfyUI; nothing that you marked is lost.
"""
    )


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


# --- Commands ---------------------------------------------------------------------------------------------------------


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


def command_check(arguments: Sequence[str]) -> int:
    """Run the linter and the type checker, or the one that is named."""
    named = [word for word in arguments if word in CHECKS]
    if len(named) != len(arguments):
        raise CannotStart(f"check knows {' and '.join(CHECKS)}, not {' '.join(arguments)!r}.")
    env = prepare(home(), CORE_LAYER, TEST_LAYER)
    return max([run([env.python, "-m", *CHECKS[name]], cwd=ROOT) for name in named or CHECKS])


CHECKS = {"lint": ("ruff", "check", "."), "types": ("mypy",)}


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
        "OMP_WAIT_POLICY": "PASSIVE",  # tests, ComfyUI and browser share the cores: waiting threads must not spin
        "OMP_NUM_THREADS": "1",
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


COMMANDS = {
    "demo": command_demo,
    "rate": command_rate,
    "comfyui": command_comfyui,
    "test": command_test,
    "check": command_check,
}

HELP = f"""usage: python start.py [command] [options]

  (none)      run the whole loop on the tiny model with a simulated rater; pictures, curve and LoRA
              go to ./hero-demo (or --out FOLDER); --method nft learns by another rule
  rate        the same loop with you as the rater: opens a rating page (--port, --task, --rounds)
  comfyui     a real ComfyUI with this pack and the tiny workflow; other arguments go to ComfyUI
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
