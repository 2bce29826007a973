# SPDX-License-Identifier: Apache-2.0
"""A real ComfyUI for tests: boots it with this pack, queues prompts, listens, kills."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from PIL import Image

from tests.patience import PATIENCE
from tests.published import is_checkout, published

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("HERO_FEEDBACK_HOME") or Path.home() / ".cache" / "hero-feedback")
PACK = "hero-feedback-1.0"
"""The folder the pack is installed under: no valid module name, as folders of packs often are not."""

ODDITIES = Path(__file__).with_name("oddities.py")
"""Test nodes that a server loads where its `custom_nodes` has them."""

GGUF = "ComfyUI-GGUF"
"""Another pack, which reads GGUF files: it is used where it lies in :data:`CACHE`, and is no part of this one."""

MINIATURES = "miniatures"
"""A test pack with files of miniature models, which a server loads where :func:`install_miniatures` put it."""

WITHOUT_GIT = ("__init__.py", "nodes", "hero_core", "web", "examples", "pyproject.toml")


@dataclass(frozen=True)
class Checkout:
    """A ComfyUI on disk and, where it is not the installed one, its frontend."""

    version: str
    path: Path
    frontend: Path | None = None

    @property
    def oldest(self) -> bool:
        """Whether this is the oldest that is supported, and not the current one."""
        return self.version.startswith("0.3.")


def checkouts() -> list[Checkout]:
    """The ComfyUIs at hand: the current one and the oldest supported."""
    current = Path(os.environ.get("COMFYUI_PATH") or CACHE / "ComfyUI")
    old = Path(os.environ.get("COMFYUI_OLD_PATH") or CACHE / "ComfyUI-0.3.64")
    old_frontend = os.environ.get("COMFYUI_OLD_FRONTEND")
    frontend = Path(old_frontend) if old_frontend else next(iter((CACHE / "frontends").glob("1.27*/*/static")), None)
    found = [Checkout(_version(current), current)] if (current / "main.py").is_file() else []
    if (old / "main.py").is_file():
        found.append(Checkout(_version(old), old, frontend))
    return found


def _version(path: Path) -> str:
    namespace: dict[str, str] = {}
    for line in (path / "comfyui_version.py").read_text().splitlines():
        if line.startswith("__version__"):
            namespace["version"] = line.split('"')[1]
    return namespace["version"]


def install(base: Path) -> Path:
    """Put the pack into ``base/custom_nodes`` as an installer would: the files that are published, and no other."""
    folder = base / "custom_nodes" / PACK
    for name in published() if is_checkout() else WITHOUT_GIT:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy2(ROOT / name, target)
    for name in ("models/loras", "models/checkpoints", "input", "output", "temp", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    return folder


def install_miniatures(base: Path) -> None:
    """Put the test pack of miniature models into ``base/custom_nodes``, and the one for GGUF files where it is at hand.

    The first writes the files when it is loaded.
    """
    folder = base / "custom_nodes" / MINIATURES
    folder.mkdir(parents=True, exist_ok=True)
    if (CACHE / GGUF).is_dir():
        shutil.copytree(CACHE / GGUF, base / "custom_nodes" / GGUF, ignore=shutil.ignore_patterns(".git"))
    for name, source in (("__init__.py", "miniatures.py"), ("families.py", "families.py")):
        shutil.copy2(Path(__file__).with_name(source), folder / name)


class Failed(AssertionError):
    """A prompt that ended in an error; ``node`` is where, ``message`` what ComfyUI says."""

    def __init__(self, node: str, kind: str, message: str, traceback: str = "") -> None:
        super().__init__(f"{node} ({kind}): {message}\n{traceback}")
        self.node, self.kind, self.message = node, kind, message


class Interrupted(AssertionError):
    """A prompt that the user cancelled."""


@dataclass
class Server:
    """One running ComfyUI over a base directory, which outlives it."""

    checkout: Checkout
    base: Path
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen | None = None
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.base / "server.log"

    def start(self) -> Server:
        """Boot and wait until it answers; on another port where a program was quicker to take the one that was free."""
        for _ in range(3):
            told = self.log.stat().st_size if self.log.is_file() else 0
            self._boot(_free_port())
            if self._until_ready(time.monotonic() + PATIENCE):
                return self
            if b"address already in use" not in self.log.read_bytes()[told:].lower():
                break
        raise RuntimeError(f"ComfyUI ended while starting:\n{self.tail()}")

    def _boot(self, port: int) -> None:
        self.port = port
        command = [
            sys.executable, str(self.checkout.path / "main.py"), "--cpu", "--port", str(self.port),
            "--base-directory", str(self.base), "--disable-auto-launch", "--disable-api-nodes",
            "--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK, ODDITIES.name, MINIATURES, GGUF,
            "--preview-method", "latent2rgb", "--database-url", "sqlite:///:memory:", *self.arguments,
        ]  # fmt: skip
        if self.checkout.frontend:
            command += ["--front-end-root", str(self.checkout.frontend)]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1", **self.environment}
        if self.checkout.frontend:
            environment["PYTHONPATH"] = str(_old_templates(self.base))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.base, env=environment, start_new_session=True
            )

    def _until_ready(self, deadline: float) -> bool:
        """Whether it answers; False where it ended first."""
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                return False
            try:
                self.get("/system_stats")
                return True
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"ComfyUI did not answer:\n{self.tail()}")

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        """SIGKILL: nothing gets to clean up."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        """End it as Ctrl+C does, and make sure."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    # -- HTTP -----------------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, body: Any = None, timeout: float = PATIENCE) -> tuple[int, Any]:
        """Status and decoded JSON (or bytes); a refusal is an answer, not an exception."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, _decode(answer.read(), answer.headers.get_content_type())
        except urllib.error.HTTPError as error:
            return error.code, _decode(error.read(), error.headers.get_content_type())

    def get(self, path: str) -> Any:
        status, body = self.request("GET", path)
        assert status == 200, (path, status, body)
        return body

    def post(self, path: str, body: Any) -> Any:
        status, answer = self.request("POST", path, body)
        assert status == 200, (path, status, answer)
        return answer

    # -- prompts --------------------------------------------------------------------------------------------------

    def queue(self, prompt: dict, client: str | None = None) -> str:
        """Queue an API-format workflow; returns its id."""
        status, answer = self.request("POST", "/prompt", {"prompt": prompt, "client_id": client or uuid.uuid4().hex})
        if status != 200:
            raise Failed("prompt", "validation", json.dumps(answer)[:3000])
        return answer["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = PATIENCE) -> dict:
        """The history entry of a prompt, once it is over; raises on error and on interruption."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry:
                _raise_for(entry)
                return entry
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI died:\n{self.tail()}")
            time.sleep(0.05)
        raise TimeoutError(f"prompt {prompt_id} did not end in {timeout} s:\n{self.tail()}")

    def run(self, prompt: dict, timeout: float = PATIENCE) -> dict:
        """Queue and wait."""
        return self.wait(self.queue(prompt), timeout)

    def running(self) -> int:
        queue = self.get("/queue")
        return len(queue["queue_running"]) + len(queue["queue_pending"])

    def interrupt(self) -> None:
        self.request("POST", "/interrupt", {})

    def picture(self, image: dict) -> np.ndarray:
        """A picture of an output list as ``(H, W, 3)`` uint8."""
        path = f"/view?filename={image['filename']}&subfolder={image['subfolder']}&type={image['type']}"
        return np.asarray(Image.open(io.BytesIO(self.get(path))).convert("RGB"))

    def pictures(self, entry: dict, node: str) -> np.ndarray:
        """All pictures of one Preview / Save Image node: ``(n, H, W, 3)`` uint8."""
        return np.stack([self.picture(image) for image in entry["outputs"][node]["images"]])


def _old_templates(base: Path) -> Path:
    """An empty stand-in for the templates package, whose newer releases lack the folder that 0.3.64 asks for."""
    shim = base / "shim"
    package = shim / "comfyui_workflow_templates"
    (package / "templates").mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "templates" / "index.json").write_text("[]")
    return shim


def _decode(data: bytes, kind: str) -> Any:
    return json.loads(data) if kind == "application/json" and data else data


def _raise_for(entry: dict) -> None:
    for kind, data in entry["status"]["messages"]:
        if kind == "execution_error":
            trace = "".join(data.get("traceback", []))
            raise Failed(data["node_type"], data["exception_type"], data["exception_message"].strip(), trace)
        if kind == "execution_interrupted":
            raise Interrupted(data["node_type"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Listener:
    """Collects the messages of a browser tab: text messages as ``(type, data)``, previews as ``("preview", bytes)``."""

    def __init__(self, server: Server, client: str) -> None:
        self.address = f"{server.url}/ws?clientId={client}"
        self.messages: list[tuple[str, Any]] = []
        self._stop = threading.Event()
        self._open = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        assert self._open.wait(PATIENCE), "no websocket"
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)

    def of(self, kind: str) -> list[Any]:
        return [data for name, data in list(self.messages) if name == kind]

    def until(self, kind: str, count: int = 1, timeout: float = PATIENCE, **fields: Any) -> list[Any]:
        """Wait for messages of a kind whose data has these fields."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = [data for data in self.of(kind) if all(data.get(k) == v for k, v in fields.items())]
            if len(found) >= count:
                return found
            time.sleep(0.02)
        raise TimeoutError(f"no {count} {kind} with {fields}; got {[k for k, _ in self.messages][-20:]}")

    def _run(self) -> None:
        import asyncio

        asyncio.run(self._listen())

    async def _listen(self) -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(self.address, max_msg_size=0) as socket:
            self._open.set()
            while not self._stop.is_set():
                try:
                    message = await socket.receive(0.2)
                except TimeoutError:
                    continue
                if message.type == aiohttp.WSMsgType.TEXT:
                    data = json.loads(message.data)
                    self.messages.append((data["type"], data.get("data", {})))
                elif message.type == aiohttp.WSMsgType.BINARY:
                    self.messages.append(("preview", message.data))
                elif message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                    return
