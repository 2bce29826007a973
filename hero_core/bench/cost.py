# SPDX-License-Identifier: Apache-2.0
"""What an update costs: seconds and memory of each rule on one drawn round, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from torch.profiler import ProfilerActivity, profile

from .. import embedding as E
from .. import seeding
from ..feedback import Feedback
from ..lora import LoRAConfig, LoRAState
from ..policy import Progress, no_progress
from ..reward import Reward, similarity
from ..rollout import Rollout, SamplingSettings, sample
from ..store.files import write_json
from ..terminal import Watcher
from ..tiny.model import load_tiny
from ..tiny.policy import TinyPolicy
from ..tiny.tasks import TASKS
from ..update import RULES
from ..update.common import OptimizerSettings
from ..update.ddpo import DDPOSettings
from ..update.goods import GoodsSettings
from ..update.nft import NFTSettings
from ..update.score_action import ScoreActionSettings
from .measures import versions

BATCH = 8
K = 5
WEIGHED = 16
"""Pictures whose update is weighed: every allocation is recorded, which takes far more memory than it tells of."""


def rules(pictures: int) -> dict[str, OptimizerSettings]:
    """The rules by name, all with ``pictures * K`` rows in batches of equal size: guided steps, or noised pictures."""
    steps, batch = pictures * K // (BATCH * K), BATCH * K
    return {
        "ddpo": DDPOSettings(),
        "ddpo, kl 1": DDPOSettings(kl_coef=1.0),
        "score_action": ScoreActionSettings(min_r2=-1e9),
        "score_action, gae": ScoreActionSettings(min_r2=-1e9, advantage="gae"),
        "nft": NFTSettings(steps=steps, batch=batch),
        "goods": GoodsSettings(steps=steps, batch=batch),
    }


@dataclass(frozen=True)
class Played:
    """A drawn round with everything that an update takes."""

    policy: TinyPolicy
    lora: LoRAState
    rollout: Rollout
    reward: Reward

    def update(self, settings: OptimizerSettings) -> float:
        """Seconds of one update."""
        began = _clock()
        RULES[type(settings)](self.policy, self.lora, self.rollout, self.reward, settings, seed=0)
        return _clock() - began


def _clock() -> float:
    """Seconds that this process computed, which no other program disturbs; on a GPU those of the wall."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def draw(pictures: int, progress: Progress = no_progress) -> Played:
    """A round of the tiny model, its first half good, rewarded by an embedding that has learned nothing."""
    policy = TinyPolicy(load_tiny(), TASKS["colour"].prompt)
    lora = policy.fresh_lora(LoRAConfig(), seeding.generator(0, "LoRA"))
    noise = seeding.randn(policy.latent_shape, seeding.picture_generators(pictures, 0, "z_T"))
    source, settings = torch.full((pictures,), -1), SamplingSettings(steps=20, scored_steps=K)
    rollout = sample(policy, lora, noise, source, settings, seed=0, round=1, progress=progress)
    labels = {i: "good" if i < pictures // 2 else "bad" for i in range(pictures)}
    state = E.fresh_embedding(policy.latent_shape, 0)
    best = E.embed(state, rollout.z_0[:1])
    reward = Reward(
        similarity(E.embed(state, rollout.z_0), best),
        Feedback(pictures, labels, 0),  # type: ignore[arg-type]
        score=lambda latents: similarity(E.embed(state, latents), best),
    )
    return Played(policy, lora, rollout, reward)


def measure(pictures: int, repeats: int, progress: Progress = no_progress) -> dict[str, Any]:
    """Seconds (median of ``repeats``, the rules taking turns) and peak memory of each rule's update."""
    drawn = draw(pictures, progress)
    seconds: dict[str, list[float]] = {name: [] for name in rules(pictures)}
    total = repeats * len(seconds)
    for turn in range(repeats):
        for number, (name, settings) in enumerate(rules(pictures).items()):
            seconds[name].append(drawn.update(settings))
            progress(turn * len(seconds) + number + 1, total, None)
    few = draw(min(pictures, WEIGHED))
    rows = [
        {"rule": name, "seconds": median(seconds[name]), "memory": peak(partial(few.update, settings))}
        for name, settings in rules(few.rollout.n).items()
    ]
    return {"pictures": pictures, "repeats": repeats, "versions": versions(), "rows": rows}


def peak(work: Callable[[], object]) -> int:
    """The most bytes of tensors that ``work`` held at a time beyond what was there before, as torch allocated them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        work()
    results = record.profiler.kineto_results  # type: ignore[union-attr]
    changes = [event for event in results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())))


def command(path: Path, pictures: int, repeats: int, console: Console) -> None:
    """Measure, tell, and write ``path``."""
    torch.set_num_threads(1)
    with Watcher(console) as watcher:
        found = measure(pictures, repeats, watcher("updates", 0))
    write_json(path, found)
    console.print(table(found))


def table(found: dict[str, Any]) -> str:
    """A Markdown table of :func:`measure`, against DDPO's row."""
    first = found["rows"][0]
    rows = [
        f"| {row['rule']} | {row['seconds']:.1f} | {row['seconds'] / first['seconds']:.2f} | "
        f"{row['memory'] / 2**20:.0f} | {row['memory'] / first['memory']:.2f} |"
        for row in found["rows"]
    ]
    head = ["| update | seconds | against ddpo | MiB | against ddpo |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *rows])
