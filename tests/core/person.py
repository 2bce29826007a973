# SPDX-License-Identifier: Apache-2.0
"""A person who rates round after round, for tests that kill and refuse in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rounds import EMBEDDING, SAMPLING, pictures_of
from toy import ToyPolicy

from hero_core import loop
from hero_core.feedback import Feedback
from hero_core.loop import next_mixture, sample_round, save_round, show_round
from hero_core.mixture import MixtureSettings
from hero_core.store import Session, SessionSettings, Store
from hero_core.update.ddpo import DDPOSettings

N = 4
LABELS = {0: "good", 1: "bad", 2: "good", 3: "bad"}


class Person:
    """Rates picture after picture, and remembers what was acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: dict[int, tuple[int, dict[int, Any], bool]] = {}

    def rate(self, session: Session, number: int) -> None:
        round = session.round(number)
        marks = round.marks()
        for picture in range(N):
            if picture not in marks.feedback.labels:
                labels = {p: LABELS[p] for p in range(picture + 1)}
                marks = round.put_marks(marks.rev, Feedback(N, labels, best=0))  # type: ignore[arg-type]
                self.acknowledged[number] = (marks.rev, marks.feedback.labels, False)
        marks = round.submit(marks.rev)
        self.acknowledged[number] = (marks.rev, marks.feedback.labels, True)

    def check(self, session: Session) -> None:
        """Everything that was acknowledged is on the disk."""
        for number, (rev, labels, submitted) in self.acknowledged.items():
            marks = session.round(number).marks()
            assert marks.rev >= rev
            assert labels.items() <= marks.feedback.labels.items()
            assert marks.submitted >= submitted


def one_round(folder: Path, person: Person) -> None:
    """What a person does who starts the program, queues, rates and queues again."""
    session = Store(folder / "hero", folder / "loras").open("toy", SessionSettings(seed=7))
    policy = ToyPolicy()
    rollout = sample_round(session, policy, N, SAMPLING)
    show_round(session, rollout, pictures_of(rollout), "standalone")
    if not session.round(rollout.round).marks().submitted:
        person.rate(session, rollout.round)
    feedback = loop.feedback_of(session, rollout)
    assert feedback is not None
    reward = loop.learn_reward(session, rollout, feedback, EMBEDDING)
    lora = loop.update_lora(session, policy, rollout, reward, DDPOSettings())
    save_round(session, reward, lora, next_mixture(session, rollout, feedback, MixtureSettings()))
