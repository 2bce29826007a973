# SPDX-License-Identifier: Apache-2.0
"""One measured run: the whole loop on one task, with one method, one rater and one seed."""

from __future__ import annotations

import runpy
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import seeding
from ..embedding import EmbeddingSettings
from ..errors import HeroError
from ..feedback import Feedback
from ..loop import (
    LoRAResult,
    current_lora,
    learn_reward,
    next_mixture,
    sample_round,
    save_round,
    show_round,
    update_lora,
)
from ..lora import LoRAConfig
from ..mixture import MixtureSettings
from ..policy import Progress
from ..preference import RewardResult, reward_of_marks
from ..rollout import DRAWN, Rollout, SamplingSettings
from ..store import Round, Session, SessionSettings, Store
from ..store.files import read_json, write_json
from ..tiny.judges import Judgement
from ..tiny.model import KINDS, TinyModel, load_tiny
from ..tiny.policy import TinyPolicy
from ..tiny.tasks import TASKS
from ..update.common import OptimizerSettings
from . import raters
from .fresh import fresh_latents
from .measures import diversity, free_entropy, peak_memory, versions
from .methods import METHODS
from .traps import batch_cosine, wrong_best
from .use import measure

Watch = Callable[[str, int], Progress]
"""``watch(part, round)`` gives the progress callback of one part of one round."""
Rater = Callable[[Round, Tensor], Feedback]
"""``rater(round, pictures)`` marks pictures ``(n, 3, H, W)`` in 0..1."""


@dataclass(frozen=True)
class RunSettings:
    """What a run is made of. ``task`` is one of the tiny model's, or any name where ``prompt`` and ``judge`` are given.

    ``judge``: ``FILE.py:NAME`` of a function from pictures ``(n, 3, H, W)`` in [0, 1] to ``(good, quality)``, both
    ``(n,)``. ``fresh_rounds``: after which rounds the LoRA is measured from fresh noise; 0 is the base model.
    ``update`` None takes the method's own. ``maps`` keeps where E puts each picture of each round; ``use``
    pictures are drawn at the end in each of the ways people use a LoRA (:mod:`.use`). ``model``: which tiny model.
    """

    task: str = "colour"
    method: str = "hero"
    rater: str = "perfect"
    seed: int = 0
    rounds: int = 8
    pictures: int = 64
    fresh_pictures: int = 128
    fresh_rounds: tuple[int, ...] = (0, 1, 2, 4, 8)
    prompt: str = ""
    judge: str = ""
    maps: bool = False
    use: int = 0
    model: str = "unet"
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    sampling: SamplingSettings = field(default_factory=lambda: SamplingSettings(steps=20, micro_batch=DRAWN))
    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    mixture: MixtureSettings = field(default_factory=MixtureSettings)
    update: OptimizerSettings | None = None

    def __post_init__(self) -> None:
        if bool(self.prompt) != bool(self.judge):
            raise HeroError("A task of your own takes both: a prompt and a judge, FILE.py:NAME.")
        _known("task", self.task, TASKS if not self.prompt else [self.task])
        _known("method", self.method, METHODS)
        _known("rater", self.rater, raters.RATERS)
        _known("model", self.model, KINDS)
        if self.use and self.task not in TASKS:
            raise HeroError("--use measures the tiny model's own tasks alone; leave it out with a prompt of your own.")
        if self.use and self.model != "unet":
            raise HeroError("--use measures the kind unet alone; leave it out with --model flow.")
        for name in ("rounds", "pictures", "fresh_pictures"):
            if getattr(self, name) < 1:
                raise HeroError(f"{name} is {getattr(self, name)}; it is 1 or more.")

    @property
    def base_key(self) -> str:
        """A short name for what the base model's measurement depends on."""
        s, drawn = self, replace(self.sampling, scored_steps=1, scored_part="all")
        judge = Path(s.judge.rpartition(":")[0]).read_bytes() if s.judge else b""
        key = (s.task, s.prompt, s.judge, judge, s.seed, s.fresh_pictures, drawn, s.model)
        return f"{s.task}-s{s.seed}-{seeding.seed_for(repr(key)):x}"

    def to_json(self) -> dict[str, Any]:
        """Everything that decides the run's numbers, with the method's own settings filled in."""
        method = METHODS[self.method]
        update = self.update or method.update if method.update else None
        rule = {"rule": type(update).__name__.removesuffix("Settings").lower(), **asdict(update)} if update else None
        return {**asdict(self), "fresh_rounds": list(self.fresh_rounds), "update": rule}


def _known(what: str, name: str, names: Any) -> None:
    if name not in names:
        raise HeroError(f"There is no {what} {name!r}; choose one of {', '.join(names)}.")


def load_judge(place: str) -> raters.Judge:
    """The judge at ``FILE.py:NAME``; :class:`HeroError` where there is none."""
    path, _, name = place.rpartition(":")
    file = Path(path)
    if not path or not file.is_file():
        raise HeroError(f"There is no judge at {place!r}: give FILE.py:NAME.")
    function = runpy.run_path(str(file)).get(name)
    if not callable(function):
        raise HeroError(f"{file} has no function {name!r}.")

    def judge(pictures: Tensor) -> Judgement:
        good, quality = function(pictures)
        judgement = Judgement(np.asarray(good, dtype=bool), np.asarray(quality, dtype=np.float32))
        if judgement.good.shape != (len(pictures),) or judgement.quality.shape != (len(pictures),):
            raise HeroError(f"{place} gave {judgement.good.shape} and {judgement.quality.shape} for {len(pictures)}.")
        return judgement

    return judge


class Run:
    """The loop on one task, its store below ``folder``."""

    def __init__(self, settings: RunSettings, folder: Path, watch: Watch, session: str = "bench") -> None:
        self.settings, self.watch, self.method = settings, watch, METHODS[settings.method]
        self.judge = load_judge(settings.judge) if settings.judge else TASKS[settings.task].judge
        prompt = settings.prompt or TASKS[settings.task].prompt
        self.store = Store(folder / "sessions", folder / "loras")
        self.model: TinyModel = load_tiny(kind=settings.model)
        self.policy = TinyPolicy(self.model, prompt)
        self.session: Session = self.store.open(session, SessionSettings(settings.seed, settings.lora))
        self.sampling = settings.sampling
        if self.method.all_steps:
            self.sampling = replace(self.sampling, scored_steps=self.sampling.steps)
        self.update = settings.update or self.method.update
        self.embedding = settings.embedding if self.method.embedding else replace(settings.embedding, steps=0)

    def fresh(self) -> Tensor:
        """Pictures from fresh noise with the LoRA as it is now: ``(n, 3, H, W)`` in 0..1."""
        settings, number = self.settings, self.session.saved_round
        lora, watch = current_lora(self.session, self.policy), self.watch("fresh noise", number)
        count, seed = settings.fresh_pictures, settings.seed
        return self.model.decode(fresh_latents(self.policy, lora, count, settings.sampling, seed=seed, progress=watch))

    def measure_use(self) -> dict[str, dict[str, float]]:
        """The LoRA as it is now, as people use it."""
        settings, lora = self.settings, current_lora(self.session, self.policy)
        rows = settings.sampling.micro_batch
        return measure(self.model, settings.task, lora, n=settings.use, rows=rows, seed=settings.seed)

    def measure_fresh(self, pictures: Tensor) -> dict[str, float]:
        """Success and diversity of pictures from fresh noise."""
        found = {"success_fresh": raters.success(self.judge, pictures), "diversity_fresh": diversity(pictures)}
        entropy = None if self.settings.judge else free_entropy(self.settings.task, pictures)
        return found if entropy is None else {**found, "entropy_fresh": entropy}

    def round(self, rater: Rater) -> dict[str, Any]:
        """One round from noise to a saved state; returns its row of the result table."""
        session = self.session
        number, clock = session.open_round, Clock()
        rollout = sample_round(
            session, self.policy, self.settings.pictures, self.sampling, self.watch("sampling", number)
        )
        clock.lap("sample")
        decoded = self.model.decode(rollout.z_0)
        shown = show_round(session, rollout, decoded.permute(0, 2, 3, 1), "standalone")
        pictures = self.pictures(number)  # what a person would see, and what a run that goes on later can read
        clock.lap("decode")
        feedback = _rated(shown, pictures, rater)
        if self.method.trap == "wrong_best":
            feedback = wrong_best(feedback, number)
        clock.lap("rate")
        reward, lora = self._learn(rollout, feedback, number, clock)
        mixture = next_mixture(session, rollout, feedback, self.settings.mixture) if self.method.noise else None
        save_round(session, reward, lora, mixture)
        clock.lap("save")
        row = {**self.row(number, pictures), "seconds": clock.seconds}
        if self.settings.maps:
            row["map"] = [[round(x, 3), round(y, 3)] for x, y in reward.map.tolist()]
            row["labels"] = [feedback.labels.get(i, "") for i in range(feedback.n)]
        return row

    def row(self, number: int, pictures: Tensor) -> dict[str, Any]:
        """What there is to say of a saved round with these pictures ``(n, 3, H, W)``."""
        found = {"success_mixture": raters.success(self.judge, pictures), "diversity_mixture": diversity(pictures)}
        saved = next(entry for entry in self.session.history if entry["round"] == number)
        return {"round": number, **found, **saved}

    def pictures(self, number: int) -> Tensor:
        """The pictures of a round as they lie on the disk: ``(n, 3, H, W)`` in 0..1."""
        shown = self.session.round(number)
        return torch.stack([_read_picture(shown.picture(i)) for i in range(shown.n)])

    def _learn(
        self, rollout: Rollout, feedback: Feedback, number: int, clock: Clock
    ) -> tuple[RewardResult, LoRAResult | None]:
        if self.method.reward == "binary":
            reward = reward_of_marks(rollout, feedback)
        else:
            reward = self._embed(rollout, feedback, number)
        clock.lap("embed")
        if self.update is None or self.method.update is None:
            return reward, None
        lora = update_lora(self.session, self.policy, rollout, reward, self.update, self.watch("update", number))
        clock.lap("update")
        return reward, lora

    def _embed(self, rollout: Rollout, feedback: Feedback, number: int) -> RewardResult:
        watch = self.watch("embedding", number)
        with batch_cosine() if self.method.trap == "batch_cosine" else nullcontext():
            return learn_reward(self.session, rollout, feedback, self.embedding, self.method.reward, progress=watch)

    def simulated(self) -> Rater:
        """The rater of the settings, with this task's judge for its taste."""
        settings = raters.RATERS[self.settings.rater]

        def rater(shown: Round, pictures: Tensor) -> Feedback:
            rng = np.random.default_rng(seeding.seed_for(self.settings.seed, shown.number, "rater"))
            return raters.rate(self.judge, pictures, settings, rng, shown.has_old_best)

        return rater


def _rated(shown: Round, pictures: Tensor, rater: Rater) -> Feedback:
    if not shown.marks().submitted:
        given = rater(shown, pictures)
        if not shown.marks().submitted:
            shown.put_marks(shown.marks().rev, given)
            shown.submit()
    return shown.marks().feedback


def _read_picture(path: Path) -> Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)


def complete(
    run: Run,
    record: Path,
    report: Callable[[dict[str, Any]], None],
    keep: Callable[[int, Tensor], None] = lambda number, pictures: None,
    base: Path | None = None,
) -> list[dict[str, Any]]:
    """Run all rounds, with the simulated rater, and write their rows to ``record`` as they come.

    A run that was stopped goes on where it stopped. ``report(row)`` is called for the base model (round 0) and after
    each round, ``keep(round, pictures)`` for every set of pictures from fresh noise. ``base``: a folder where runs
    that share a base model, a task and a seed find its measurement, so that it is made once.
    """
    settings, rater = run.settings, run.simulated()
    shared = base / f"{settings.base_key}.json" if base else None

    def fresh(number: int) -> dict[str, float]:
        if number == 0 and shared and shared.is_file():
            return dict(read_json(shared))
        pictures = run.fresh()
        keep(number, pictures)
        measured = run.measure_fresh(pictures)
        if number == 0 and shared:
            write_json(shared, measured)
        return measured

    def add(row: dict[str, Any]) -> None:
        if row["round"] in settings.fresh_rounds:
            row |= fresh(row["round"])
        if row["round"] == settings.rounds and settings.use:
            row["use"] = run.measure_use()
        rows.append({**row, "peak_memory": peak_memory()})
        write_json(record, {"settings": settings.to_json(), "versions": versions(), "rows": rows})
        report(rows[-1])

    rows: list[dict[str, Any]] = read_json(record)["rows"] if record.is_file() else []
    for row in rows:
        report(row)
    if not rows:
        add({"round": 0})
    for number in range(len(rows), run.session.saved_round + 1):  # saved, but killed before its row was written
        add(run.row(number, run.pictures(number)))
    while run.session.saved_round < settings.rounds:
        add(run.round(rater))
    return rows


class Clock:
    """Seconds of each part of a round."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        """The time since the last call belongs to ``part``."""
        now = time.perf_counter()
        self.seconds[part], self.last = round(now - self.last, 2), now
