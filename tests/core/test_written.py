# SPDX-License-Identifier: Apache-2.0
"""What stands in the files, and what is said where they cannot be written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rounds import N, begin, finish
from toy import ToyPolicy

from hero_core.errors import DiskRefused, HeroError
from hero_core.feedback import Feedback
from hero_core.store import Session, files
from hero_core.store.files import checksum, read_record, write_record, write_tensors

ODD = {"auc": math.nan, "deep": [{"low": -math.inf}, 0.5], "n": 2}


def strictly(text: str) -> Any:
    def no_word(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=no_word)


def test_files_hold_strict_json(tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", ODD)
    written = strictly((tmp_path / "a.json").read_text())
    assert (written["auc"], written["deep"], written["n"]) == (None, [{"low": None}, 0.5], 2)
    assert read_record(tmp_path / "a.json") == {"format": 1, "auc": None, "deep": [{"low": None}, 0.5], "n": 2}


def test_files_of_before_that_hold_nan_are_read(tmp_path: Path) -> None:
    record = {"format": 1, **ODD}
    record["checksum"] = checksum(json.dumps(record, sort_keys=True).encode())
    (tmp_path / "old.json").write_text(json.dumps(record))
    assert "NaN" in (tmp_path / "old.json").read_text()
    assert read_record(tmp_path / "old.json")["deep"] == [{"low": None}, 0.5]


def test_a_round_of_goods_alone_leaves_strict_json(session: Session, policy: ToyPolicy) -> None:
    finish(session, policy, begin(session, policy, Feedback(N, {0: "good", 1: "good"}, 0)))
    history = strictly((session.folder / "session.json").read_text())["history"]
    assert history[0]["auc"] is None
    assert session.history == history, "the same before and after a restart"


def test_a_lora_folder_that_cannot_be_written_is_named_before_the_work_and_nothing_is_lost(
    session: Session, policy: ToyPolicy
) -> None:
    folder = session.store.lora_dir
    session.store.check_lora_dir()
    assert not folder.exists()
    assert not list(folder.parent.glob(".*")), "it leaves nothing"
    folder.write_text("a file where the folder should be")
    with pytest.raises(HeroError, match="nothing can be written there") as refused:
        session.store.check_lora_dir()
    assert str(folder) in str(refused.value)
    rollout = begin(session, policy)
    with pytest.raises(DiskRefused, match="could not be written"):
        finish(session, policy, rollout)
    assert session.open_round == 1
    assert session.round(1).marks().submitted
    folder.unlink()
    finish(session, policy, rollout)
    assert session.open_round == 2


def test_what_the_serialiser_calls_by_a_name_of_its_own_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"

    def refuse(*_: Any, **__: Any) -> None:
        raise files.SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)")

    monkeypatch.setattr(files, "save_file", refuse)
    with pytest.raises(DiskRefused, match="Permission denied") as refused:
        write_tensors(path, {"t": torch.zeros(1)}, {})
    assert refused.value.filename == str(path)
