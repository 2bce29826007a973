# SPDX-License-Identifier: Apache-2.0
"""The folder of all that is set up: a virtual environment and its packages, in layers. Standard library only."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .programs import CannotStart, capture, last_line, say, watch

# torch and its two companions must be of one release: no torchaudio newer than this one has its torch.
TORCH = "torch==2.11.0"
TORCH_TRIO = (TORCH, "torchvision==0.26.0", "torchaudio==2.11.0")
CORE = (TORCH, "numpy", "safetensors", "filelock", "pillow", "aiohttp", "tqdm", "rich", "matplotlib")

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


CORE_LAYER = Layer("core", "PyTorch and 8 more packages (on Linux about 3 GB to download, a few minutes)", CORE)


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
