# SPDX-License-Identifier: Apache-2.0
"""What the sessions of one store share: where they lie, the right to write there, and what a person was told."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..errors import DiskRefused, HeroError
from .files import check_writable
from .lock import Hold, hold

log = logging.getLogger(__name__)


class Shared:
    """The folder ``root`` of all sessions and the folder ``lora_dir`` of their LoRA files. Safe to share between
    threads."""

    def __init__(self, root: Path, lora_dir: Path) -> None:
        self.root, self.lora_dir = Path(root), Path(lora_dir)
        self.lock = threading.RLock()
        self._turns: Counter[str] = Counter()
        self._told: set[str] = set()
        self._hold: Hold | None = None

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """The right to write, for one thread of one process; :class:`HeroError` where another process has it.

        From the first time on the process keeps others out for as long as this store is there.
        """
        with self.lock:
            if self._hold is None or not self._hold.stands:
                self._hold = hold(self.root)
            yield

    def tell(self, sentence: str) -> bool:
        """Warn a person of what was found and done, once; False where it was said before."""
        with self.lock:
            if sentence in self._told:
                return False
            self._told.add(sentence)
            log.warning("%s", sentence)
            return True

    def check_lora_dir(self) -> None:
        """Raise :class:`HeroError` where no LoRA could be written: better before a person's work than after it."""
        try:
            check_writable(self.lora_dir)
        except DiskRefused as error:
            raise HeroError(
                f"The LoRA of this round will go to {self.lora_dir}, and nothing can be written there "
                f"({error.strerror}): free space on the disk or mend its rights, then queue again."
            ) from error

    def turn(self, name: str) -> None:
        """Let the next queue read all of session ``name`` from the disk again."""
        self._turns[name] += 1
