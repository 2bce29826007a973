# SPDX-License-Identifier: Apache-2.0
"""Damaged, missing and newer files of every kind in a session: named, set aside, mended or refused; never from zero."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from remembered import remember
from rounds import EMBEDDING, SAMPLING, N, begin, pictures_of, rate, same_state
from safetensors.torch import load_file
from toy import ToyPolicy

from hero_core import loop
from hero_core.errors import DiskRefused, HeroError, NotFound
from hero_core.feedback import Feedback
from hero_core.loop import next_mixture, rate_latents, sample_round, save_round, show_round
from hero_core.mixture import MixtureSettings
from hero_core.rollout import Rollout
from hero_core.store import Session, SessionSettings, State, Store, files
from hero_core.update.ddpo import DDPOSettings

SEED = SessionSettings(seed=7)
EVERY_FILE = (
    "session.json",
    "state/0002/session.json",
    "state/0002/state.json",
    "state/0002/lora.safetensors",
    "state/0002/embedding.safetensors",
    "state/0002/mixture.safetensors",
    "state/0002/best.safetensors",
    "state/0001/state.json",
    "state/0001/lora.safetensors",
    "rounds/0002/rollout.safetensors",
    "rounds/0002/labels.json",
    "rounds/0002/labels.copy.json",
    "rounds/0002/round.json",
    "rounds/0002/metrics.json",
    "rounds/0002/mode.json",
    "rounds/0002/pictures/info.json",
    "rounds/0002/pictures/0003.png",
    "rounds/0002/pictures/0003.jpg",
    "rounds/0003/rollout.safetensors",
    "rounds/0003/labels.json",
    "rounds/0003/labels.copy.json",
    "rounds/0003/round.json",
    "rounds/0003/mode.json",
    "rounds/0003/pictures/info.json",
    "rounds/0003/pictures/0003.png",
    "rounds/0003/pictures/0003.jpg",
)
"""Of a session with two saved rounds and a third that is half rated."""
NEEDED = [
    name for name in EVERY_FILE
    if not name.endswith(("copy.json", "png", "jpg", "0002/session.json")) and "state/0001" not in name
    and ("rounds/0002" not in name or "metrics" in name)
]  # fmt: skip
"""The records that are read for going on. What is not is neither refused nor touched."""
UNSEEN = (
    "state/0001/", "state/0002/session.json", "labels.copy.json", "rounds/0002/mode.json", "rounds/0002/pictures"
)  # fmt: skip
"""Files that nothing needs for going on, so that nobody hears of their damage until somebody looks."""

SILENT = ("rollout.safetensors", "mode.json")
"""Files whose absence is nothing to hear of: they are written again to the same bits, or are not needed any more."""


@pytest.fixture(autouse=True)
def _at_the_speed_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(monkeypatch)


def finish(session: Session, policy: ToyPolicy, rollout: Rollout) -> loop.SavedRound:
    feedback = loop.feedback_of(session, rollout)
    assert feedback is not None
    reward = loop.learn_reward(session, rollout, feedback, EMBEDDING)
    lora = loop.update_lora(session, policy, rollout, reward, DDPOSettings())
    return save_round(session, reward, lora, next_mixture(session, rollout, feedback, MixtureSettings()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A session in the middle of its third round, and what that round ends in where nothing is damaged."""
    folder = tmp_path_factory.mktemp("whole")
    session = Store(folder / "hero", folder / "loras").open("toy", SEED)
    policy = ToyPolicy()
    with pytest.MonkeyPatch.context() as patch:
        remember(patch)
        for _ in range(2):
            finish(session, policy, begin(session, policy))
        marks = half_rated(session, policy)
        shutil.copytree(folder, folder.with_name("kept"))
        end(session, policy)
    lora = load_file(folder / "loras" / "toy_r0003.safetensors")
    return {"folder": folder.with_name("kept"), "state": session.state(), "lora": lora, "marks": marks}


def half_rated(session: Session, policy: ToyPolicy) -> Feedback:
    rollout = sample_round(session, policy, N, SAMPLING)
    shown = show_round(session, rollout, pictures_of(rollout), "standalone")
    labels = rate(rollout).labels
    return shown.put_marks(0, Feedback(N, {p: labels[p] for p in range(N // 2)})).feedback


def end(session: Session, policy: ToyPolicy) -> Rollout:
    """Go on as a person would who queues again: rate what is not submitted, learn, save, until three rounds are."""
    while session.saved_round < 3:
        rollout = sample_round(session, policy, N, SAMPLING)
        shown = show_round(session, rollout, pictures_of(rollout), "standalone")
        marks = shown.marks()
        if not marks.submitted:
            shown.put_marks(marks.rev, rate(rollout))
            shown.submit()
        finish(session, policy, rollout)
    return rollout


@pytest.fixture
def folder(whole: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of that session, to damage; a new store over it plays the restart."""
    shutil.copytree(whole["folder"], tmp_path / "copy")
    return tmp_path / "copy"


def reopened(folder: Path) -> Session:
    return Store(folder / "hero", folder / "loras").open("toy", SEED)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def _flip(path: Path) -> None:
    flip(path, path.stat().st_size * 4 - 3)


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _remove(path: Path) -> None:
    path.unlink()


def _foreign(path: Path) -> None:
    path.write_text('{"something": ["else"]}')


DAMAGES: tuple[Callable[[Path], None], ...] = (_cut, _flip, _empty, _zeros, _remove, _foreign)


PAIRS = [
    pytest.param(name, damage, id=f"{name}-{damage.__name__}", marks=() if (i + j) % 6 == 0 else pytest.mark.long)
    for i, name in enumerate(EVERY_FILE)
    for j, damage in enumerate(DAMAGES)
]
"""Every kind of damage to every file; one of them for each file where there is no time for all."""


def same_end(session: Session, whole: dict[str, Any]) -> None:
    assert session.saved_round == 3
    assert same_state(session.state(), whole["state"])
    lora = load_file(session.store.lora_dir / "toy_r0003.safetensors")
    assert lora.keys() == whole["lora"].keys()
    assert all(torch.equal(lora[key], whole["lora"][key]) for key in lora)
    assert [entry["round"] for entry in session.history] == [1, 2, 3]


@pytest.mark.parametrize(("name", "damage"), PAIRS)
def test_one_damaged_file_loses_no_mark_and_no_round(
    folder: Path, whole: dict[str, Any], name: str, damage: Callable[[Path], None], policy: ToyPolicy,
    caplog: pytest.LogCaptureFixture, tally: Callable[[str, int], None],
) -> None:  # fmt: skip
    path = folder / "hero/toy" / name
    damage(path)
    kept = None if damage is _remove else path.read_bytes()
    session = reopened(folder)
    assert session.saved_round == (1 if name.startswith("state/0002/") and not name.endswith("session.json") else 2)
    marks = session.round(3).marks()
    assert marks.feedback == whole["marks"]
    assert marks.rev == 1
    for round in session.rounds():
        assert round.to_json()["n"] == N
    end(session, policy)
    same_end(session, whole)
    if not any(part in name for part in UNSEEN) and not (damage is _remove and path.name in SILENT):
        said = [record.getMessage() for record in caplog.records]
        assert any(path.name in sentence or str(path.parent) in sentence for sentence in said), said
    if kept and not any(part in name for part in (*UNSEEN, "metrics.json", "mode.json")):
        aside = [file for file in (folder / "hero").rglob("*") if ".damaged" in str(file) and file.is_file()]
        assert kept in [file.read_bytes() for file in aside], "what was damaged is kept"
    again = reopened(folder)
    assert same_state(again.state(), whole["state"]), "and what was mended can be read"
    tally("damaged", 1)


@pytest.mark.parametrize("name", NEEDED)
def test_a_file_of_a_newer_version_is_refused_untouched(
    folder: Path, name: str, policy: ToyPolicy, tally: Callable[[str, int], None]
) -> None:
    path = folder / "hero/toy" / name
    if path.suffix == ".json":
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    else:
        tensors, metadata = files.read_tensors(path)
        files.write_tensors(path, tensors, {**metadata, "format": 99})
    newer, others = path.read_bytes(), _contents(folder, path)
    with pytest.raises(HeroError, match=rf"{path.name} has format 99, of a newer version; update to read it"):
        end(reopened(folder), policy)
    assert path.read_bytes() == newer
    assert others.items() <= _contents(folder, path).items()
    tally("damaged", 1)


def _contents(folder: Path, but: Path) -> dict[Path, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path != but and path.name != "mode.json")
    return {path: path.read_bytes() for path in found}


@pytest.mark.parametrize("kind", ["session.json", "state/0002/lora.safetensors", "rounds/0003/labels.json"])
@pytest.mark.parametrize("count", [100, pytest.param(3000, marks=pytest.mark.long)])
def test_no_flipped_bit_goes_unnoticed(folder: Path, kind: str, count: int, tally: Callable[[str, int], None]) -> None:
    """Any bit: it is damage, or a file that says the same."""
    path = folder / "hero/toy" / kind
    read: Callable[[Path], Any] = files.read_tensors if path.suffix == ".safetensors" else files.read_record
    good, before = path.read_bytes(), read(path)
    rng = np.random.default_rng(0)
    bits = sorted(rng.choice(len(good) * 8, min(count, len(good) * 8), replace=False).tolist())
    for bit in bits:
        flip(path, bit)
        assert _says_or_refuses(read, path) in (_says(before), path.name), f"bit {bit}"
        path.write_bytes(good)
    tally("damaged", len(bits))


def _says_or_refuses(read: Callable[[Path], Any], path: Path) -> str:
    try:
        return _says(read(path))
    except HeroError as error:
        return path.name if path.name in str(error) else f"no name in: {error}"


def _says(read: Any) -> str:
    """What was read, for comparison; a flip in the name of the checksum leaves one more key and changes nothing."""
    if isinstance(read, tuple):
        return f"{files.checksum_of_tensors(read[0])} {_says(read[1])}"
    return json.dumps({key: value for key, value in read.items() if not re.fullmatch("[0-9a-f]{8}", str(value))})


def test_files_without_checksums_are_read_as_before(folder: Path, whole: dict[str, Any], policy: ToyPolicy) -> None:
    """What earlier versions wrote: no checksum, no format in small files, no copies."""
    for path in (folder / "hero").rglob("*.json"):
        data = json.loads(path.read_text())
        plain = {key: value for key, value in data.items() if key not in ("checksum", "latents", "files")}
        if path.name not in ("session.json", "state.json"):
            del plain["format"]
        path.write_text(json.dumps(plain))
        if path.name == "labels.copy.json" or (path.name == "session.json" and path.parent.name.isdigit()):
            path.unlink()
    session = reopened(folder)
    assert session.round(3).marks().feedback == whole["marks"]
    end(session, policy)
    same_end(session, whole)


def test_two_damaged_states_are_both_named_and_nothing_is_touched(folder: Path, policy: ToyPolicy) -> None:
    for number in (1, 2):
        _cut(folder / f"hero/toy/state/000{number}/lora.safetensors")
    before = _contents(folder, Path())
    with pytest.raises(HeroError, match=r"0002.lora\.safetensors cannot.*0001.lora\.safetensors cannot be read"):
        reopened(folder)
    assert _contents(folder, Path()) == before


def test_labels_damaged_twice_are_refused_and_not_dropped(folder: Path, policy: ToyPolicy) -> None:
    for name in ("labels.json", "labels.copy.json"):
        _cut(folder / "hero/toy/rounds/0003" / name)
    session = reopened(folder)
    rollout = sample_round(session, policy, N, SAMPLING)
    for ask in (session.round(3).marks, session.round(3).to_json, lambda: session.round(3).put_marks(0, Feedback(N))):
        with pytest.raises(HeroError, match=r"labels\.json cannot be read.*labels\.copy\.json cannot be read"):
            ask()
    assert [round.id for round in session.store.rounds()] == ["toy.0001", "toy.0002"], "the others are still there"
    for name in ("labels.json", "labels.copy.json"):
        (session.round(3).folder / name).unlink()  # what the sentence says
    assert session.round(3).marks().rev == 0
    assert torch.equal(sample_round(session, policy, N, SAMPLING).z_0, rollout.z_0)


def test_rounds_without_a_session_never_begin_from_zero(folder: Path) -> None:
    (folder / "hero/toy/session.json").unlink()
    for path in (folder / "hero/toy/state").glob("*/session.json"):
        path.unlink()
    with pytest.raises(HeroError, match=r"session\.json cannot be read: it is missing.*from a backup"):
        reopened(folder)
    assert Store(folder / "hero", folder / "loras").sessions() == []
    assert not (folder / "hero/toy/session.json").exists()


def test_a_submitted_round_stays_submitted_when_its_labels_are_damaged(
    session: Session, policy: ToyPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    rollout = begin(session, policy)
    marks = session.round(1).marks()
    _cut(session.round(1).folder / "labels.json")
    before = _contents(session.folder, session.folder)
    assert session.round(1).marks() == marks
    assert session.round(1).to_json()["submitted"]
    assert _contents(session.folder, session.folder) == before, "looking changes nothing"
    assert finish(session, policy, rollout).round == 1
    assert "8 marks at revision 2, submitted" in caplog.text
    assert "labels.json" in session.history[0]["repaired"][0], "the history tells of it"


def test_marks_are_not_put_on_other_pictures(session: Session, policy: ToyPolicy) -> None:
    rollout = sample_round(session, policy, N, SAMPLING)
    session.round(1).put_marks(0, Feedback(N, {2: "good"}))
    (session.round(1).folder / "rollout.safetensors").unlink()
    with pytest.raises(HeroError, match="not those that its marks were made on"):
        sample_round(session, policy, N, replace(SAMPLING, steps=14))
    with pytest.raises(HeroError, match="not those that its marks were made on"):
        rate_latents(session, policy, rollout.z_0 + 1, SAMPLING)
    assert torch.equal(sample_round(session, policy, N, SAMPLING).z_0, rollout.z_0)
    assert session.round(1).marks().feedback.labels == {2: "good"}


def test_a_damaged_picture_is_named_and_then_drawn_again(session: Session, policy: ToyPolicy) -> None:
    rollout = sample_round(session, policy, N, SAMPLING)
    shown = show_round(session, rollout, pictures_of(rollout), "wait")
    good = shown.picture(3).read_bytes()
    for damage in (_flip, _cut, _remove):
        damage(shown.picture(3))
        with pytest.raises(NotFound, match=r"0003\.png is damaged|no picture 3"):
            shown.picture(3)
        assert shown.picture(2).is_file()
        show_round(session, rollout, pictures_of(rollout), "wait")
        assert shown.picture(3).read_bytes() == good
    assert sorted(path.name for path in shown.folder.glob("pictures*")) == [
        "pictures", "pictures.2.damaged", "pictures.3.damaged", "pictures.damaged"
    ]  # fmt: skip


def test_a_damaged_round_on_disk_lets_the_next_queue_read_everything_again(session: Session, policy: ToyPolicy) -> None:
    begin(session, policy)
    before = session.store.revision("toy")
    _cut(session.round(1).folder / "rollout.safetensors")
    with pytest.raises(HeroError, match="no rollout on the disk: queue again"):
        finish(session, policy, sample_in_memory(session, policy))
    assert session.store.revision("toy") != before
    finish(session, policy, sample_round(session, policy, N, SAMPLING))
    assert session.saved_round == 1


def sample_in_memory(session: Session, policy: ToyPolicy) -> Rollout:
    """The rollout that a running ComfyUI still has, though its file is damaged."""
    other = Store(session.store.root.with_name("other"), session.store.lora_dir).open("toy", SEED)
    return sample_round(other, policy, N, SAMPLING)


def test_what_may_not_be_read_is_not_called_damaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    before = _contents(folder, Path())
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(HeroError, match=r"cannot be read: Permission denied\. Mend its rights"):
        reopened(folder)
    monkeypatch.undo()
    assert _contents(folder, Path()).keys() >= before.keys()
    assert not list(folder.rglob("*.damaged"))
    assert reopened(folder).saved_round == 2


def test_a_refusing_disk_is_said_in_a_sentence(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    session = store.open("x", SEED)
    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(DiskRefused, match=r"session\.json could not be written \(No space left on device\)") as error:
        session.tie("toy", {"prompt": "a toy"})
    assert error.value.errno == 28
    assert session.fingerprint is None


def test_an_empty_state_is_kept_as_one(folder: Path) -> None:
    assert reopened(folder).state() != State()


def test_tidying_up_that_fails_does_not_fail_the_save(
    session: Session, policy: ToyPolicy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path) -> None:
        raise DiskRefused(path, OSError(28, "No space left on device"))

    finish(session, policy, begin(session, policy))
    monkeypatch.setattr("hero_core.store.round.slim_rollout", full)
    saved = finish(session, policy, begin(session, policy))
    assert (saved.round, session.saved_round) == (2, 2)
    assert saved.lora_path is not None
    assert "No space left on device" in caplog.text
    monkeypatch.undo()
    before = (session.round(1).folder / "rollout.safetensors").stat().st_size
    reopened(session.store.root.parent)
    assert (session.round(1).folder / "rollout.safetensors").stat().st_size < before / 2, "the next start does it again"
