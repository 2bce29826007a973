"""The whole loop on the tiny model without ComfyUI: with a simulated rater, or with a person at the rating page."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .bench import raters
from .bench.fresh import fresh_latents
from .bench.plots import curve_of_success
from .embedding import EmbeddingSettings
from .errors import HeroError
from .feedback import Feedback
from .files import read_json, write_json
from .loop import (
    LoRAResult,
    RewardResult,
    current_lora,
    learn_reward,
    next_mixture,
    sample_round,
    save_round,
    show_round,
    update_lora,
)
from .mixture import MixtureSettings
from .policy import Progress
from .report import contact_sheet
from .rollout import Rollout, SamplingSettings
from .session import Round, Session, SessionSettings, Store
from .tiny.model import TinyModel, load_tiny
from .tiny.policy import TinyPolicy
from .tiny.tasks import TASKS, Task
from .update.ddpo import DDPOSettings


@dataclass(frozen=True)
class DemoSettings:
    """One run on the tiny model: its task, size and the settings of every part."""

    task: str = "colour"
    rounds: int = 8
    pictures: int = 64
    fresh_pictures: int = 48
    seed: int = 0
    session: str = "demo"
    sampling: SamplingSettings = field(default_factory=lambda: SamplingSettings(steps=20))
    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    update: DDPOSettings = field(default_factory=DDPOSettings)
    mixture: MixtureSettings = field(default_factory=MixtureSettings)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise HeroError(f"There is no task {self.task!r}; choose one of {', '.join(TASKS)}.")
        for name in ("rounds", "pictures"):
            if getattr(self, name) < 1:
                raise HeroError(f"{name} is {getattr(self, name)}; it is 1 or more.")


Watch = Callable[[str, int], Progress]
"""``watch(part, round)`` gives the progress callback of one part of one round."""
Rater = Callable[[Round, Tensor], Feedback]
"""``rater(round, pictures)`` marks pictures ``(n, 3, H, W)``."""


class Demo:
    """The loop on one tiny task, a store below ``out``."""

    def __init__(self, settings: DemoSettings, out: Path, watch: Watch) -> None:
        self.settings, self.watch = settings, watch
        self.task: Task = TASKS[settings.task]
        self.store = Store(out / "sessions", out / "loras")
        self.model: TinyModel = load_tiny()
        self.policy = TinyPolicy(self.model, self.task.prompt, self.task.negative, settings.sampling.cfg)
        self.session: Session = self.store.open(settings.session, SessionSettings(seed=settings.seed))

    def decode(self, z_0: Tensor) -> Tensor:
        """Pictures ``(n, 3, H, W)`` in 0..1."""
        return self.model.decode(z_0)

    def fresh(self) -> Tensor:
        """Pictures from fresh noise with the LoRA as it is now."""
        lora = current_lora(self.session, self.policy)
        settings, number = self.settings, self.session.saved_round
        watch = self.watch("fresh noise", number)
        z_0 = fresh_latents(
            self.policy, lora, settings.fresh_pictures, settings.sampling, seed=settings.seed, progress=watch
        )
        return self.decode(z_0)

    def round(self, rater: Rater) -> dict[str, Any]:
        """One round from noise to a saved LoRA; returns its row of the result table."""
        settings, session = self.settings, self.session
        number, clock = session.open_round, _Clock()
        rollout = sample_round(
            session, self.policy, settings.pictures, settings.sampling, self.watch("sampling", number)
        )
        clock.lap("sample")
        pictures = self.decode(rollout.z_0)
        shown = show_round(session, rollout, pictures.permute(0, 2, 3, 1), "standalone")
        clock.lap("decode")
        feedback = self._rated(shown, pictures, rater)
        clock.lap("rate")
        reward, lora = self._learn(rollout, feedback, number, clock)
        mixture = next_mixture(session, rollout, feedback, settings.mixture)
        saved = save_round(session, reward, lora, mixture)
        clock.lap("save")
        row = {"round": number, "success_mixture": raters.success(self.task.judge, pictures)}
        lora_name = saved.lora_path.name if saved.lora_path else None
        return {**row, **saved.metrics, "lora": lora_name, "seconds": clock.seconds}

    def _rated(self, shown: Round, pictures: Tensor, rater: Rater) -> Feedback:
        if not shown.marks().submitted:
            given = rater(shown, pictures)
            if not shown.marks().submitted:
                shown.put_marks(shown.marks().rev, given)
                shown.submit()
        return shown.marks().feedback

    def _learn(
        self, rollout: Rollout, feedback: Feedback, number: int, clock: _Clock
    ) -> tuple[RewardResult, LoRAResult]:
        settings = self.settings
        reward = learn_reward(
            self.session, rollout, feedback, settings.embedding, progress=self.watch("embedding", number)
        )
        clock.lap("embed")
        lora = update_lora(
            self.session, self.policy, rollout, reward, settings.update, self.watch("update", number)
        )
        clock.lap("update")
        return reward, lora


class _Clock:
    """Seconds of each part of a round."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part], self.last = round(now - self.last, 2), now


def simulated(task: Task) -> Rater:
    """The task's own judge as the rater."""
    return lambda shown, pictures: raters.perfect(task.judge, pictures, shown.has_old_best)


def human(watch: Watch, pause: float = 0.2) -> Rater:
    """A person at the rating page: waits, without end, until the round is submitted."""

    def rater(shown: Round, pictures: Tensor) -> Feedback:
        progress = watch("waiting for your marks", shown.number)
        while not (marks := shown.marks()).submitted:
            progress(len(marks.feedback.labels), shown.n, None)
            time.sleep(pause)
        return marks.feedback

    return rater


def run_demo(settings: DemoSettings, out: Path, watch: Watch, report: Callable[[dict[str, Any]], None]) -> Path | None:
    """Run all rounds with the simulated rater and write pictures, curve, numbers and LoRA below ``out``.

    ``report(row)`` is called for the base model (round 0) and after each round; a run that was stopped goes on where it
    stopped. Returns the LoRA's path, None where no round taught anything.
    """
    demo = Demo(settings, out, watch)
    record = out / "result.json"
    rows = _rows_so_far(record, demo)
    fresh = None
    if not rows:
        fresh = demo.fresh()
        _sheet(demo, fresh, out / "before.png")
        rows = [{"round": 0, "success_fresh": raters.success(demo.task.judge, fresh)}]
    for row in rows:
        report(row)
    while demo.session.saved_round < settings.rounds:
        row = demo.round(simulated(demo.task))
        fresh = demo.fresh()
        row["success_fresh"] = raters.success(demo.task.judge, fresh)
        rows.append(row)
        write_json(record, {"settings": asdict(settings), "rounds": rows})
        report(row)
    _sheet(demo, demo.fresh() if fresh is None else fresh, out / "after_fresh.png")
    last = demo.session.round(demo.session.saved_round)
    pictures = torch.stack([_read_picture(last.picture(i)) for i in range(last.n)])
    _sheet(demo, pictures, out / "after_mixture.png")
    curve_of_success(rows, f"{demo.task.name}: {demo.task.prompt}", out / "curve.png")
    return demo.store.lora_dir / rows[-1]["lora"] if rows[-1].get("lora") else None


def _rows_so_far(record: Path, demo: Demo) -> list[dict[str, Any]]:
    """The rows of a run that was stopped, as far as its session was saved."""
    if demo.session.saved_round == 0 or not record.is_file():
        return []
    return [row for row in read_json(record)["rounds"] if row["round"] <= demo.session.saved_round]


def _sheet(demo: Demo, pictures: Tensor, path: Path) -> None:
    marks = raters.perfect(demo.task.judge, pictures)
    contact_sheet(pictures.permute(0, 2, 3, 1), marks).save(path)


def _read_picture(path: Path) -> Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)
