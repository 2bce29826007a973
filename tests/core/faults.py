# SPDX-License-Identifier: Apache-2.0
"""A layer under the store that counts its file operations and lets one of them fail, or lets the process die at it."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from hero_core.store import files

Kind = Literal["before", "in", "after", "power", "ENOSPC", "EACCES", "EROFS"]
KILLS: tuple[Kind, ...] = ("before", "in", "after", "power")
"""Death before, in the middle of and after an operation; ``power``: and what was not flushed is cut to a half."""
REFUSALS: tuple[Kind, ...] = ("ENOSPC", "EACCES", "EROFS")


class Killed(BaseException):
    """The process is dead: nothing that runs on the way out reaches the disk any more."""


class Faults:
    """Operations on files below ``folder``; number ``at`` (from 0) suffers ``kind``, and none where ``at`` is None.

    A refusal hits one operation, or with ``lasting`` every one from there on until :meth:`end`.
    """

    def __init__(self, folder: Path, at: int | None = None, kind: Kind = "before", lasting: bool = False) -> None:
        self.folder, self.at, self.kind, self.lasting = str(folder), at, kind, lasting
        self.names: list[str] = []
        self.dead = False
        self.over = False
        self.unflushed: set[str] = set()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Faults:
        """Put the layer under every call that changes the disk."""
        for name in ("replace", "unlink", "remove", "rmdir", "mkdir", "rename", "link"):
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))
        monkeypatch.setattr(os, "fsync", self._fsync)
        monkeypatch.setattr(builtins, "open", self._opener(builtins.open))
        monkeypatch.setattr(files, "save_file", self._save_file(files.save_file))
        return self

    def end(self) -> None:
        """The disk takes everything again."""
        self.over = True

    # -- what happens at an operation -----------------------------------------------------------------------------

    def operation(self, name: str, whole: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Do ``whole``, unless it is this operation's turn."""
        if self.dead:
            raise Killed
        if self.over:
            return whole()
        number = len(self.names)
        self.names.append(name)
        if self.at is None or not (number == self.at or (self.lasting and number > self.at)):
            return whole()
        if self.kind in REFUSALS:
            if self.kind == "ENOSPC" and half:
                half()
            code = getattr(errno, self.kind)
            raise OSError(code, os.strerror(code), name)
        if self.kind == "after":
            with contextlib.suppress(OSError):  # an operation may fail of itself, as removing what is not there does
                whole()
        elif self.kind == "in" and half:
            half()
        self._die()

    def _die(self) -> None:
        self.dead = True
        if self.kind == "power":
            for path in filter(os.path.isfile, self.unflushed):
                os.truncate(path, os.path.getsize(path) // 2)
        raise Killed

    # -- the operations -------------------------------------------------------------------------------------------

    def ours(self, path: Any) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self.folder)  # type: ignore[arg-type]

    def _wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.ours(path) and kwargs.get("dir_fd") is None:
                return function(path, *args, **kwargs)

            def whole() -> Any:
                function(path, *args, **kwargs)
                if name == "replace":
                    self._follow(os.fspath(path), os.fspath(args[0]))

            return self.operation(f"{name} {path}", whole)

        return call

    def _follow(self, old: str, new: str) -> None:
        """What was not flushed under the old name is not under the new one."""
        moved = {path: new + path[len(old) :] for path in self.unflushed if path == old or path.startswith(f"{old}/")}
        self.unflushed = (self.unflushed - moved.keys()) | set(moved.values())

    def _fsync(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if self.ours(path):
            self.operation(f"fsync {path}", lambda: self.unflushed.discard(path))

    def _opener(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not self.ours(file) or not set(mode) & set("wax"):
                return function(file, mode, *args, **kwargs)
            opened = self.operation(f"open {file}", lambda: function(file, mode, *args, **kwargs))
            self.unflushed.add(os.fspath(file))
            return Written(self, opened, os.fspath(file))

        return call

    def _save_file(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(tensors: Any, path: Any, metadata: Any = None) -> None:
            def whole() -> None:
                function(tensors, path, metadata=metadata)
                self.unflushed.add(os.fspath(path))

            def half() -> None:
                whole()
                os.truncate(path, os.path.getsize(path) // 2)

            self.operation(f"write {path}", whole, half)

        return call


class Written:
    """A file that is written to: each write is an operation of its own."""

    def __init__(self, faults: Faults, file: Any, path: str) -> None:
        self.faults, self.file, self.path = faults, file, path

    def write(self, data: Any) -> int:
        def whole() -> int:
            return self.file.write(data)

        def half() -> None:
            self.file.write(data[: len(data) // 2])
            self.file.flush()

        return self.faults.operation(f"write {self.path}", whole, half)

    def fileno(self) -> int:
        raise io.UnsupportedOperation("no descriptor: PIL then goes through write()")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
