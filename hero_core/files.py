"""Reading and writing so that a kill at any line leaves the old file or the new one, and damage is named."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import HeroError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT = 1
"""The number that every file of ours carries; a higher one is refused."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``; on leaving, its file is flushed and takes the place of ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make a rename durable; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a kill leaves the old file or the new one."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON; :class:`HeroError` names a damaged file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HeroError(f"{path} cannot be read: {error}.") from error


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write a safetensors file whose header carries ``metadata`` as JSON."""
    contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(contiguous, temporary, metadata={"hero": json.dumps({"format": FORMAT, **metadata})})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of :func:`write_tensors`; :class:`HeroError` names a damaged or newer file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["hero"])
            check_format(metadata, path)
            return {key: file.get_tensor(key) for key in file.keys()}, metadata
    except HeroError:
        raise
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise HeroError(f"{path} cannot be read ({type(error).__name__}: {error}).") from error


def to_image(picture: Tensor) -> Image:
    """A PIL image of one picture ``(H, W, 3)`` in 0..1."""
    from PIL import Image as PIL

    return PIL.fromarray((picture.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def check_format(data: Any, path: Path) -> None:
    """Refuse, naming the file, data without our format number or with a newer one."""
    found = data.get("format") if isinstance(data, dict) else None
    if not isinstance(found, int):
        raise HeroError(f"{path} is not a file of this program: it has no format number.")
    if found > FORMAT:
        raise HeroError(f"{path} has format {found}, of a newer version; update to read it (this reads {FORMAT}).")
