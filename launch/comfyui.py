# SPDX-License-Identifier: Apache-2.0
"""A ComfyUI with this pack: found or fetched, its folder, its port, its command line. Standard library only."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .environment import Environment
from .programs import CannotStart, capture, last_line, option, say

ROOT = Path(__file__).resolve().parents[1]

COMFYUI_URL = "https://github.com/comfyanonymous/ComfyUI.git"
COMFYUI_TAG = "v0.33.0"


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
