# SPDX-License-Identifier: Apache-2.0
"""Plays rounds in processes that are killed: ``python killed.py FOLDER KILLS SEED`` prints what happened as JSON.

A parent that has imported everything forks a child for each life. The child queues, rates and learns as a person would,
and tells through a pipe what was acknowledged; the parent kills it with SIGKILL at a random moment and then reads the
store. A session is over after three rounds; its LoRA must equal that of a life without a kill. Exit status 1 and the
reason on stderr where something was lost.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from person import N, Person, one_round
from rounds import same_state
from safetensors.torch import load_file
from toy import NarrowEmbedding

from hero_core import embedding
from hero_core.store import Session, SessionSettings, Store

ROUNDS = 3


def opened(folder: Path) -> Session:
    return Store(folder / "hero", folder / "loras").open("toy", SessionSettings(seed=7))


class Speaking(Person):
    """Writes each acknowledgement to the pipe after it came."""

    def __init__(self, pipe: int) -> None:
        super().__init__()
        self.acknowledged = _Told(pipe)


class _Told(dict):  # type: ignore[type-arg]
    def __init__(self, pipe: int) -> None:
        super().__init__()
        self.pipe = pipe

    def __setitem__(self, number: int, marks: Any) -> None:
        os.write(self.pipe, (json.dumps([number, *marks]) + "\n").encode())


def life(folder: Path, pipe: int) -> None:
    """Round after round, as long as it is let."""
    torch.set_num_threads(1)
    while opened(folder).saved_round < ROUNDS:
        one_round(folder, Speaking(pipe))


def killed_after(folder: Path, seconds: float | None, person: Person) -> bool:
    """One life, killed after ``seconds``; True where it was over before. ``person`` learns what was acknowledged."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            life(folder, writer)
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    told, deadline = b"", None if seconds is None else time.monotonic() + seconds
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([reader], [], [], left)[0]:
            os.kill(child, signal.SIGKILL)
            deadline = None
            continue
        part = os.read(reader, 65536)
        if not part:
            break
        told += part
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    for line in told.decode().splitlines():
        number, rev, labels, submitted = json.loads(line)
        person.acknowledged[number] = (rev, {int(p): label for p, label in labels.items()}, submitted)
    if os.WIFSIGNALED(status):
        return False
    assert os.WEXITSTATUS(status) == 0, "a life ended in an error"
    return True


def check(folder: Path, person: Person) -> None:
    """The store opens and holds everything that was acknowledged."""
    if not person.acknowledged:
        return
    session = Store(folder / "hero", folder / "loras").session("toy")
    person.check(session)
    assert session.saved_round >= max(person.acknowledged) - 1, "a saved round is not open again"


def equal(folder: Path, whole: Path) -> None:
    one, other = (Store(place / "hero", place / "loras").session("toy") for place in (folder, whole))
    assert same_state(one.state(), other.state())
    for number in range(1, ROUNDS + 1):
        name = f"loras/toy_r{number:04d}.safetensors"
        files = load_file(folder / name), load_file(whole / name)
        assert files[0].keys() == files[1].keys()
        assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])
    assert [entry["marks"] for entry in one.history] == [N] * ROUNDS


def main(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill ``kills`` times; sessions begin anew as they are over."""
    embedding.Embedding = NarrowEmbedding  # type: ignore[misc]
    random.seed(seed)
    whole, began = folder / "whole", time.monotonic()
    assert killed_after(whole, None, Person())
    seconds = time.monotonic() - began
    done, sessions, opens, reached = 0, 0, 0, [0] * ROUNDS
    while done < kills:
        here, person, over = folder / f"session{sessions}", Person(), False
        while not over:
            over = killed_after(here, random.uniform(0.0, seconds / 2) if done < kills else None, person)
            done, opens = done + (not over), opens + 1
            check(here, person)
            if person.acknowledged:
                reached[max(person.acknowledged) - 1] += not over
        equal(here, whole)
        sessions += 1
    return {"kills": done, "sessions": sessions, "lives": opens, "in_round": reached}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
