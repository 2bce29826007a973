# SPDX-License-Identifier: Apache-2.0
"""One program at a time writes into a store: a lock of the kernel's, which ends with its process, however that ends."""

from __future__ import annotations

import errno
import logging
import threading
from pathlib import Path
from weakref import WeakValueDictionary

from filelock import FileLock, SoftFileLock, Timeout

from ..errors import DiskRefused, HeroError

NAME = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)

log = logging.getLogger(__name__)
_held: WeakValueDictionary[Path, Hold] = WeakValueDictionary()
_guard = threading.Lock()


class Hold:
    """This process's right to write below ``root``, for as long as somebody keeps the object. Made by :func:`hold`."""

    def __init__(self, root: Path, lock: FileLock | None) -> None:
        self.root, self._lock = root, lock

    @property
    def stands(self) -> bool:
        """False once somebody has removed the folder with the lock in it: another process could begin there anew."""
        return self._lock is None or (self.root / NAME).exists()


def hold(root: Path) -> Hold:
    """The right to write below ``root``, shared by the whole process.

    Raises :class:`HeroError` where another process has it, :class:`DiskRefused` where nothing can be written. On a
    file system without locks the log says that nothing guards the folder.
    """
    root = root.resolve()
    with _guard:
        held = _held.get(root)
        if held is None or not held.stands:
            held = _held[root] = Hold(root, _acquire(root))
        return held


def _acquire(root: Path) -> FileLock | None:
    lock = FileLock(root / NAME, thread_local=False)
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        if isinstance(lock, SoftFileLock):  # filelock's own way out, which a crash would leave behind
            lock.release()
            raise NotImplementedError
    except Timeout as error:
        raise HeroError(
            f"Another program has the sessions in {root} open: a second ComfyUI, or start.py. Two of them would "
            "overwrite each other's rounds, so this one may only look. Close the other one and try again, or give this "
            "one an output folder of its own."
        ) from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise DiskRefused(root / NAME, error) from error
        log.warning("%s lies on a file system without locks: take care that one program at a time uses it.", root)
        return None
    return lock
