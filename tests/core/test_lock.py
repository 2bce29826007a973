# SPDX-License-Identifier: Apache-2.0
"""One process writes into a store; the others are told so, and a crash leaves no lock behind."""

from __future__ import annotations

import errno
import gc
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hero_core.errors import DiskRefused, HeroError
from hero_core.feedback import Feedback
from hero_core.store import SessionSettings, Store

SEED = SessionSettings(seed=7)
OTHER = """
import sys, time
from pathlib import Path
from hero_core.store import SessionSettings, Store
root = Path(sys.argv[1])
store = Store(root / "hero", root / "loras")
store.open("x", SessionSettings(seed=7)).round(1)
print("open", flush=True)
time.sleep(600)
"""


@pytest.fixture
def other(tmp_path: Path, root: Path) -> Iterator[subprocess.Popen]:
    """Another process that has the store open."""
    process = subprocess.Popen([sys.executable, "-c", OTHER, tmp_path], stdout=subprocess.PIPE, cwd=root)
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_may_look_and_not_write_until_the_first_is_gone(
    other: subprocess.Popen, tmp_path: Path
) -> None:
    store = Store(tmp_path / "hero", tmp_path / "loras")
    session = store.session("x")
    assert session.settings == SEED, "reading needs no lock"
    assert [one.name for one in store.sessions()] == ["x"]
    before = (session.folder / "session.json").read_bytes()
    for write in (
        lambda: store.open("x", SEED),
        lambda: store.open("y", SEED),
        lambda: session.tie("toy", {}),
        lambda: session.round(1).put_marks(0, Feedback(0)),
        lambda: session.round(1).submit(),
    ):
        with pytest.raises(HeroError, match=r"Another program has the sessions in .*Close the other one") as refused:
            write()
        assert str(tmp_path / "hero") in str(refused.value)
    assert (session.folder / "session.json").read_bytes() == before
    assert not (tmp_path / "hero/y").exists()

    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / "hero/.lock").exists(), "the file stays, the lock does not"
    assert store.open("x", SEED).saved_round == 0
    store.open("y", SEED)


def test_stores_of_one_process_share_the_folder(tmp_path: Path) -> None:
    stores = [Store(tmp_path / "hero", tmp_path / "loras") for _ in range(3)]
    (tmp_path / "link").symlink_to(tmp_path / "hero")
    stores.append(Store(tmp_path / "link", tmp_path / "loras"))
    for store in stores:
        assert store.open("x", SEED).settings == SEED
    assert len({id(store._hold) for store in stores}) == 1


def _can_lock(path: Path) -> bool:
    code = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    return subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="asks the kernel in its own way")
def test_the_lock_is_held_for_as_long_as_the_store_is_there(tmp_path: Path) -> None:
    store = Store(tmp_path / "hero", tmp_path / "loras")
    store.open("x", SEED)
    assert not _can_lock(tmp_path / "hero/.lock")
    del store
    gc.collect()
    assert _can_lock(tmp_path / "hero/.lock")


def test_a_folder_that_was_removed_is_locked_anew(tmp_path: Path) -> None:
    store = Store(tmp_path / "hero", tmp_path / "loras")
    store.open("x", SEED)
    shutil.rmtree(tmp_path / "hero")
    store.open("x", SEED)
    assert (tmp_path / "hero/.lock").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    import fcntl

    def none(*_: Any) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", none)
    store = Store(tmp_path / "hero", tmp_path / "loras")
    assert store.open("x", SEED).saved_round == 0
    assert store.open("y", SEED).saved_round == 0
    assert caplog.text.count("file system without locks") == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(self: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(DiskRefused, match=r"\.lock could not be written \(Read-only file system\)"):
        Store(tmp_path / "hero", tmp_path / "loras").open("x", SEED)
