# SPDX-License-Identifier: Apache-2.0
"""Reading and writing so that a kill at any line leaves the old file or the new one, and damage is noticed and named.

Every change of the disk that the store makes goes through a function of this file, and every file carries a checksum of
its content, which is compared on reading. Files of older versions came without one and are read as they are.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import threading
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from ..errors import Damaged, DiskRefused, HeroError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT = 1
"""The number that every file of ours carries; a higher one is refused."""
PART = ".part"
"""Ends the name of whatever a kill may leave half-written; nothing reads it."""


# -- changes ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``; on leaving, its file is flushed and takes the place of ``path``.

    Raises :class:`DiskRefused` where the disk does not take it; ``path`` is then as it was.
    """
    temporary = _part_of(path)
    with _refusals_named(path):
        os.makedirs(path.parent, exist_ok=True)
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        flush_folder(path.parent)


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}{PART}")


@contextlib.contextmanager
def _refusals_named(path: Path) -> Iterator[None]:
    try:
        yield
    except DiskRefused:
        raise
    except OSError as error:
        raise DiskRefused(path, error) from error
    except SafetensorError as error:  # it calls everything that the disk refuses by one name of its own
        raise DiskRefused(path, OSError(errno.EIO, str(error))) from error


def check_writable(folder: Path) -> None:
    """Raise :class:`DiskRefused` where no file can be written into ``folder``, or it cannot be made. Leaves nothing."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    trial = _part_of(there / "trial")
    with _refusals_named(folder):
        open(trial, "wb").close()
        os.unlink(trial)


def flush_folder(folder: Path) -> None:
    """Make a rename durable; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder under another name; on leaving, it takes the place of ``folder``, which must be gone by then."""
    temporary = folder.with_name(f".{folder.name}{PART}")
    with _refusals_named(folder):
        remove_tree(temporary)
        os.makedirs(temporary)
        yield temporary
        os.replace(temporary, folder)
        flush_folder(folder.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder or a file. It loses its name first, so that a kill in between leaves nothing half-removed."""
    if not os.path.lexists(folder):
        return
    unnamed = folder if folder.name.endswith(PART) else _part_of(folder)
    with _refusals_named(folder):
        if unnamed != folder:
            os.replace(folder, unnamed)
    if unnamed.is_dir():
        shutil.rmtree(unnamed, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(unnamed)


def remove_parts(folder: Path) -> None:
    """Remove what a kill left half-written directly in ``folder``."""
    for part in folder.glob(f".*{PART}"):
        remove_tree(part)


def set_aside(path: Path) -> Path | None:
    """Give a damaged file or folder a name ending in ``.damaged``, which nothing reads; None where it is not there."""
    if not os.path.lexists(path):
        return None
    number, aside = 1, path.with_name(f"{path.name}.damaged")
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.{number}.damaged")
    with _refusals_named(path):
        os.replace(path, aside)
        flush_folder(path.parent)
    return aside


# -- checksums --------------------------------------------------------------------------------------------------------


def checksum(*parts: Any) -> str:
    """CRC-32 of bytes-like ``parts`` one after the other, as 8 hexadecimal digits."""
    found = 0
    for part in parts:
        found = zlib.crc32(part, found)
    return f"{found:08x}"


def checksum_of_file(path: Path) -> str:
    """The checksum of a whole file; :class:`Damaged` where it is gone or its disk cannot read it."""
    with _damage_named(path):
        return checksum(path.read_bytes())


def checksum_of_tensors(tensors: dict[str, Tensor], about: str = "") -> str:
    """The checksum of CPU tensors, their names, types and shapes, and a text ``about`` them."""

    def parts() -> Iterable[Any]:
        yield about.encode()
        for name in sorted(tensors):
            tensor = tensors[name].contiguous()
            yield f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
            yield tensor.flatten().view(torch.uint8).numpy()

    return checksum(*parts())


def _canonical(data: Any) -> str:
    return json.dumps(data, sort_keys=True, ensure_ascii=True)


# -- JSON -------------------------------------------------------------------------------------------------------------


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a kill leaves the old file or the new one."""
    _write_bytes(path, json.dumps(data, indent=1, ensure_ascii=False).encode())


def copy(source: Path, path: Path) -> None:
    """Copy a file so that a kill leaves the old one in ``path`` or the new one."""
    with _refusals_named(path):
        data = source.read_bytes()
    _write_bytes(path, data)


def _write_bytes(path: Path, data: bytes) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


def read_json(path: Path) -> Any:
    """Read JSON; :class:`Damaged` names a damaged or missing file."""
    with _damage_named(path):
        return json.loads(path.read_bytes().decode())


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Tell damage from a disk that refuses: what is only refused (rights, too many open files) is not damaged."""
    try:
        yield
    except HeroError:
        raise
    except FileNotFoundError as error:
        raise Damaged(f"{path} cannot be read: it is missing.") from error
    except OSError as error:
        if error.errno in (None, errno.EIO):
            raise Damaged(f"{path} cannot be read: {error}.") from error
        raise HeroError(f"{path} cannot be read: {error.strerror}. Mend its rights, then try again.") from error
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        why = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise Damaged(f"{path} cannot be read: {why}.") from error


def strict(data: Any) -> Any:
    """The same for JSON as others read it: NaN and infinity, which it has no word for, become None."""
    if isinstance(data, dict):
        return {key: strict(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [strict(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def write_record(path: Path, data: dict[str, Any]) -> None:
    """Write an object as JSON, a line for each key, with format number and checksum."""
    record = strict({"format": FORMAT, **data})
    record["checksum"] = checksum(_canonical(json.loads(json.dumps(record, allow_nan=False))).encode())
    lines = (f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in record.items())
    _write_bytes(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def read_record(path: Path, *keys: str) -> dict[str, Any]:
    """The inverse of :func:`write_record`; ``keys`` are those that must be there.

    Raises :class:`Damaged` where the file is missing, another one or its checksum does not fit, :class:`HeroError`
    where a newer version wrote it.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise Damaged(f"{path} cannot be read: it holds no object.")
    found = data.pop("checksum", None)
    fits = found in (None, checksum(_canonical(data).encode()))
    if "format" in data:
        check_format(data, path, fits)
    if not fits:
        raise Damaged(f"{path} cannot be read: its checksum does not fit its content.")
    lacking = [key for key in keys if key not in data]
    if lacking:
        raise Damaged(f"{path} cannot be read: it has no {' and no '.join(lacking)}.")
    return strict(data)  # files of older versions may hold NaN


# -- tensors ----------------------------------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write a safetensors file whose header carries ``metadata`` as JSON."""
    contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    record = {"format": FORMAT, **metadata}
    record["checksum"] = checksum_of_tensors(contiguous, _canonical(json.loads(json.dumps(record))))
    write_shared(path, contiguous, {"hero": json.dumps(record)})


def write_shared(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file that other programs read, with nothing of ours in its header."""
    with replacing(path) as temporary:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary, metadata=metadata)


def write_lora(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """:func:`write_shared` with the hash of the tensors, as modelspec and kohya's readers call it."""
    data = save({key: tensor.contiguous() for key, tensor in tensors.items()})
    header = 8 + int.from_bytes(data[:8], "little")
    found = hashlib.sha256(memoryview(data)[header:]).hexdigest()
    hashes = {"modelspec.hash_sha256": f"0x{found}", "sshs_model_hash": found}
    write_shared(path, tensors, {**metadata, **hashes})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of :func:`write_tensors`.

    Raises :class:`Damaged` where the file is missing or its checksum does not fit, :class:`HeroError` where a newer
    version wrote it.
    """
    with _damage_named(path):
        path.open("rb").close()  # safetensors calls a file that may not be read missing
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["hero"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        found = metadata.pop("checksum", None)
        fits = found in (None, checksum_of_tensors(tensors, _canonical(metadata)))
        check_format(metadata, path, fits)
        if not fits:
            raise Damaged(f"{path} cannot be read: its checksum does not fit its content.")
        return tensors, metadata


def tensor_names(path: Path) -> set[str]:
    """The names of a safetensors file's tensors, read from its header alone."""
    with _damage_named(path), safe_open(path, framework="pt") as file:
        return set(file.keys())


def to_image(picture: Tensor) -> Image:
    """A PIL image of one picture ``(H, W, 3)`` in 0..1."""
    from PIL import Image as PIL

    return PIL.fromarray((picture.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def check_format(data: Any, path: Path, fits: bool = True) -> None:
    """Refuse, naming the file, data without our format number or with a newer one.

    A newer file is never touched, not even where its checksum does not fit (``fits``): it may count otherwise.
    """
    found = data.get("format") if isinstance(data, dict) else None
    if not isinstance(found, int):
        raise Damaged(f"{path} is not a file of this program: it has no format number.")
    if found > FORMAT:
        damaged = "" if fits else ", or it is damaged"
        raise HeroError(
            f"{path} has format {found}, of a newer version; update to read it (this reads {FORMAT}){damaged}."
        )
