# SPDX-License-Identifier: Apache-2.0
"""Long and heavy: time and memory of a round do not grow with the rounds before it, and a round may be large."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rounds import pictures_of
from torch import Tensor
from toy import NarrowEmbedding, ToyPolicy

from hero_core import embedding, loop
from hero_core.embedding import EmbeddingSettings
from hero_core.feedback import Feedback
from hero_core.loop import next_mixture, sample_round, save_round, show_round
from hero_core.mixture import MixtureSettings
from hero_core.policy import Policy
from hero_core.rollout import Rollout, SamplingSettings
from hero_core.store import Session, SessionSettings, Store
from hero_core.tiny.model import load_tiny
from hero_core.tiny.policy import TinyPolicy
from hero_core.update.ddpo import DDPOSettings

SAMPLING = SamplingSettings(steps=10, micro_batch=4, scored_steps=2)
Decode = Callable[[Rollout], Tensor]


def one_round(session: Session, policy: Policy, decode: Decode, n: int) -> None:
    """A round of ``n`` pictures, the brighter half of them good."""
    rollout = sample_round(session, policy, n, SAMPLING)
    shown = show_round(session, rollout, decode(rollout), "standalone")
    order = rollout.z_0.mean((1, 2, 3)).argsort(descending=True).tolist()
    labels = {picture: "good" if rank < n / 2 else "bad" for rank, picture in enumerate(order)}
    shown.put_marks(0, Feedback(n, labels, order[0]))  # type: ignore[arg-type]
    feedback = shown.submit().feedback
    reward = loop.learn_reward(session, rollout, feedback, EmbeddingSettings(steps=2, lr=1e-5))
    lora = loop.update_lora(session, policy, rollout, reward, DDPOSettings(lr=1e-5, scored_steps=2, batch=4))
    save_round(session, reward, lora, next_mixture(session, rollout, feedback, MixtureSettings()))


OPENED = [0]
"""How many files this process has opened since this module was loaded."""


def _count_opened(event: str, _: object) -> None:
    OPENED[0] += event == "open"


sys.addaudithook(_count_opened)


def resident() -> float:
    """Memory of this process in MB."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def slope(values: list[float]) -> tuple[float, float]:
    """Growth over the whole series by Theil and Sen, whom a few outliers do not move, and the series' spread."""
    y, x = np.array(values), np.arange(len(values))
    i, j = np.triu_indices(len(y), 1)
    growth = float(np.median((y[j] - y[i]) / (x[j] - x[i]))) * (len(y) - 1)
    return growth, float(np.percentile(y, 90) - np.percentile(y, 10))


def measure(session: Session, policy: Policy, decode: Decode, n: int, rounds: int) -> dict[str, list[float]]:
    """CPU seconds, MB, open files and opened files of each of ``rounds`` rounds, the warming-up left out."""
    found: dict[str, list[float]] = {"seconds": [], "memory": [], "files": [], "opened": []}
    while session.saved_round < rounds:
        if session.saved_round % 5 == 0:
            gc.collect()
        began, before = time.process_time(), OPENED[0]
        one_round(session, policy, decode, n)
        found["opened"].append(OPENED[0] - before)
        found["seconds"].append(time.process_time() - began)
        found["memory"].append(resident())
        found["files"].append(len(os.listdir("/proc/self/fd")))
    return {name: values[max(2, rounds // 10) :] for name, values in found.items()}


def stays_flat(found: dict[str, list[float]]) -> None:
    """The slope of memory (of time too, where there are enough rounds to tell) is within its noise; no file stays open,
    and no round opens more of them than the first.
    """
    growth, spread = slope(found["seconds"])
    mean = float(np.mean(found["seconds"]))
    if len(found["seconds"]) >= 100:
        assert growth < max(spread, 0.1 * mean), f"a round of {mean:.3f} s came to take {growth:.3f} s more"
    assert max(found["opened"]) <= found["opened"][0]
    growth, spread = slope(found["memory"])
    assert growth < max(spread, 10.0), f"memory grew by {growth:.1f} MB"
    assert found["files"][-1] <= found["files"][0] + 1


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [10, pytest.param(200, marks=pytest.mark.long)])
def test_rounds_of_a_small_session_stay_flat(
    rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable[[str, int], None]
) -> None:
    monkeypatch.setattr(embedding, "Embedding", NarrowEmbedding)
    session = Store(tmp_path / "hero", tmp_path / "loras").open("x", SessionSettings(seed=1))
    stays_flat(measure(session, ToyPolicy(), pictures_of, 4, rounds))
    assert len(session.history) == rounds
    assert sorted(path.name for path in (session.folder / "state").iterdir()) == [f"{rounds - 1:04d}", f"{rounds:04d}"]
    before = OPENED[0]
    again = Store(tmp_path / "hero", tmp_path / "loras").open("x", SessionSettings(seed=1))
    assert again.saved_round == rounds
    assert OPENED[0] - before < 20, "opening a session does not read all of its rounds"
    tally("rounds", rounds)


@linux
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_two_hundred_rounds_of_the_tiny_model_stay_flat(tmp_path: Path, tally: Callable[[str, int], None]) -> None:
    model = load_tiny()
    policy = TinyPolicy(model, "photo of one blue rose in a vase")
    session = Store(tmp_path / "hero", tmp_path / "loras").open("x", SessionSettings(seed=1))

    def decode(rollout: Rollout) -> Tensor:
        with torch.no_grad():
            return model.decode(rollout.z_0).permute(0, 2, 3, 1)

    stays_flat(measure(session, policy, decode, 4, 200))
    tally("rounds", 200)


@pytest.mark.timeout(900)
def test_a_round_of_256_pictures_goes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable[[str, int], None]
) -> None:
    monkeypatch.setattr(embedding, "Embedding", NarrowEmbedding)
    session = Store(tmp_path / "hero", tmp_path / "loras").open("x", SessionSettings(seed=1))
    one_round(session, ToyPolicy(), pictures_of, 256)
    again = Store(tmp_path / "hero", tmp_path / "loras").open("x", SessionSettings(seed=1))
    round = again.round(1)
    assert (again.saved_round, round.n, round.marks().submitted) == (1, 256, True)
    assert (len(round.marks().feedback.good), len(round.marks().feedback.bad)) == (128, 128)
    assert all(round.picture(number, size).is_file() for number in (0, 255) for size in ("thumb", "full"))
    assert len(list(round.pictures.folder.iterdir())) == 513
    tally("rounds", 1)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_round_of_256_pictures_of_the_tiny_model_goes_through(
    tmp_path: Path, tally: Callable[[str, int], None]
) -> None:
    model = load_tiny()
    policy = TinyPolicy(model, "photo of one blue rose in a vase")
    session = Store(tmp_path / "hero", tmp_path / "loras").open("x", SessionSettings(seed=1))

    def decode(rollout: Rollout) -> Tensor:
        with torch.no_grad():
            return torch.cat([model.decode(part) for part in rollout.z_0.split(32)]).permute(0, 2, 3, 1)

    one_round(session, policy, decode, 256)
    assert (session.saved_round, session.history[0]["marks"]) == (1, 256)
    tally("rounds", 1)
