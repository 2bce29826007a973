# SPDX-License-Identifier: Apache-2.0
"""One round from start to end: a function for each step, which the nodes, the demo and the bench all call.

``sample_round -> show_round -> feedback_of -> learn_reward -> update_lora, next_mixture -> save_round``. Only
:func:`save_round` moves the session on; every other step may be repeated and gives the same result again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from . import seeding
from .compact import is_large, rounded
from .embedding import EmbeddingSettings
from .errors import HeroError
from .feedback import KEEP, Feedback
from .lora import LoRAFile, LoRAState, Names, lora_file, lora_paths
from .metadata import Taught, shared_metadata
from .mixture import FROM_FRESH, Mixture, MixtureSettings
from .policy import Policy, Progress, no_progress
from .preference import RewardResult, counts, learn
from .reward import Reward, RewardMode
from .rollout import DRAWN, Rollout, SamplingSettings, join, no_transitions, sample, scorable_steps
from .settings import differences
from .store import Best, Mode, Round, Session, State
from .update import RULES
from .update.common import OptimizerSettings
from .update.forward import ForwardSettings

log = logging.getLogger(__name__)

Tell = Callable[[str], None]
"""``tell(sentence)`` to the person who looks on."""


@dataclass(frozen=True)
class LoRAResult:
    """The LoRA after a round; ``keys`` are the shared names of its modules; ``skip`` says why no step was taken.

    ``model``: what its file says of the model, see :class:`.metadata.Taught`.
    """

    state: LoRAState
    keys: dict[str, Names]
    skip: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    model: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedRound:
    """What a saved round left: its number, the LoRA file (None without an update) and its metrics."""

    round: int
    lora_path: Path | None
    metrics: dict[str, Any]


def _to_log(sentence: str) -> None:
    log.warning("%s", sentence)


Look = Callable[[], "int | None"]
"""``look()`` is called before a round is drawn: it raises where the policy is not fit for it, and returns how many
pictures a call of the model takes where the settings leave that open (0)."""


def _no_look() -> None:
    return None


def sample_round(
    session: Session,
    policy: Policy,
    n: int,
    settings: SamplingSettings,
    progress: Progress = no_progress,
    tell: Tell = _to_log,
    look: Look = _no_look,
    scored: bool = True,
) -> Rollout:
    """The open round's rollout: from the disk where it is there, else drawn from the mixture and written.

    A round that somebody has begun to rate is kept as it was drawn, and learned from as it was drawn; ``tell`` hears
    which settings take effect in the next round alone. Raises :class:`HeroError` before any work where the session
    belongs to another checkpoint, prompt or size. A session is tied to its first policy only when that has drawn a
    round, so that a set-up that cannot leaves no trace. ``look``: see :data:`Look`. ``scored``: whether the round is
    learned from by its recorded steps, so that one is refused where no step can be scored.
    """
    if n < 1:
        raise HeroError("The LATENT holds no picture: wire an Empty Latent Image with a batch of 1 or more.")
    session.mend()
    session.refuse_another(policy.fingerprint, policy.description)
    seed, number = session.settings.seed, session.open_round
    round = session.round(number)
    kept = kept_rollout(session)
    if kept is not None:
        changes = "; ".join(_changes(kept, n, settings))
        if not changes and (kept.recorded or not scored or round.marks().rev > 0):
            return kept
        if round.marks().rev > 0:
            tell(f"Round {number} is kept as it was drawn ({changes}): the change takes effect in the next round.")
            return kept
    if scored:
        _look_at_steps(policy, settings, tell)
    rows = look()
    settings = replace(settings, micro_batch=settings.micro_batch or rows or DRAWN)
    z_T, source = initial_noise(session, policy.latent_shape, n)
    rollout = sample(
        policy, current_lora(session, policy), z_T, source, settings, seed=seed, round=number, compact=session.compact,
        progress=progress,
    )  # fmt: skip
    session.tie(policy.fingerprint, policy.description)
    round.write_rollout(rollout)
    return rollout


def _look_at_steps(policy: Policy, settings: SamplingSettings, tell: Tell) -> None:
    """Raise :class:`HeroError` where no step can be scored; tell where fewer can than are asked for."""
    count, wanted = scorable_steps(policy, settings), settings.scored_steps
    part = "" if settings.scored_part == "all" else f" in the {settings.scored_part} part"
    if count < wanted:
        tell(
            f"{count} of the {settings.steps} steps can be scored{part}: the round records {count} of each picture, "
            f"not {wanted}."
        )


def _changes(kept: Rollout, n: int, settings: SamplingSettings) -> Iterator[str]:
    """What is asked for otherwise than the round was drawn."""
    rows = settings.micro_batch or kept.settings.micro_batch  # where they are open, those of the round will do
    yield from differences(kept.settings, replace(settings, micro_batch=rows))
    if kept.n != n:
        yield f"{kept.n} pictures, not {n}"


def rate_latents(
    session: Session,
    policy: Policy,
    z_0: Tensor,
    settings: SamplingSettings,
    z_T: Tensor | None = None,
    tell: Tell = _to_log,
    look: Look = _no_look,
) -> Rollout:
    """The open round made of finished latents ``z_0`` ``(n, C, H, W)`` of any sampler, in the model's own scale.

    It has no transitions; ``z_T`` ``(n, C, H, W)``: the unit noise that they were drawn from, where it is known. A
    round that somebody has begun to rate is kept as it is: its own pictures come back, and ``tell`` hears of it.
    ``look`` as in :func:`sample_round`, but for the rows.
    """
    session.mend()
    session.refuse_another(policy.fingerprint, policy.description)
    if not z_0.any():
        raise HeroError("The latents are empty: wire the output of a sampler, not an Empty Latent Image.")
    if z_T is not None and z_T.shape != z_0.shape:
        raise HeroError(
            f"The noise has shape {tuple(z_T.shape)} and the latents have {tuple(z_0.shape)}: wire the NOISE that the "
            "sampler took, or none."
        )
    if not torch.isfinite(z_0).all():
        raise HeroError("The latents hold NaN or infinity; try another precision for the sampler (--force-fp32).")
    if session.compact and is_large(tuple(z_0.shape[1:])):
        z_0, z_T = rounded(z_0), None if z_T is None else rounded(z_T)
    round = session.round(session.open_round)
    kept = kept_rollout(session)
    if kept is not None:
        if torch.equal(kept.z_0, z_0) and kept.noise_known == (z_T is not None):
            return kept
        if round.marks().rev > 0:
            tell(
                f"Round {round.number} has marks, so its pictures are kept and the new ones are not looked at: save it "
                "first."
            )
            return kept
    look()
    rollout = Rollout(
        round.number, z_0[:0] if z_T is None else z_T, z_0, torch.full((len(z_0),), FROM_FRESH, dtype=torch.int64),
        torch.zeros(1), **no_transitions(z_0), settings=settings, fingerprint=policy.fingerprint,
    )  # fmt: skip
    session.tie(policy.fingerprint, policy.description)
    round.write_rollout(rollout)
    return rollout


def marked_round(session: Session) -> Rollout | None:
    """The open round where somebody has begun to rate it: whatever is asked for now, it is learned from as it is."""
    session.mend()
    round = session.round(session.open_round)
    return kept_rollout(session) if round.marks().rev > 0 else None


def kept_rollout(session: Session) -> Rollout | None:
    """The open round's rollout from the disk, None before it is drawn; the seeds give the noise of a compact one."""
    rollout = session.round(session.open_round).rollout()
    if rollout is None or not rollout.compact:
        return rollout
    return replace(rollout, z_T=initial_noise(session, tuple(rollout.z_0.shape[1:]), rollout.n)[0])


def initial_noise(session: Session, latent_shape: tuple[int, ...], n: int) -> tuple[Tensor, Tensor]:
    """``z_T`` ``(n, C, H, W)`` and ``source`` ``(n,)`` of the open round: from the mixture, or fresh noise."""
    key = (session.settings.seed, session.open_round)
    noises = seeding.picture_generators(n, *key, "z_T")
    mixture = session.state().mixture
    if mixture is None:
        return seeding.randn(latent_shape, noises), torch.full((n,), FROM_FRESH, dtype=torch.int64)
    return mixture.sample(noises, seeding.generator(*key, "mixture order"))


def current_lora(session: Session, policy: Policy) -> LoRAState:
    """The LoRA of the last saved round; before the first, an untrained one."""
    saved = session.state().lora
    return saved or policy.fresh_lora(session.settings.lora, seeding.generator(session.settings.seed, "LoRA"))


def show_round(session: Session, rollout: Rollout, pictures: Tensor, mode: Mode) -> Round:
    """Write the round's pictures ``(n, H, W, 3)`` in 0..1 for its rater, once; a fourth channel is not shown."""
    if pictures.ndim != 4 or pictures.shape[-1] not in (3, 4) or 0 in pictures.shape[1:3]:
        raise HeroError(
            f"The images have shape {tuple(pictures.shape)}; a round is shown as (n, height, width, 3): "
            "wire the sampler's own latents through one VAE Decode into the grid."
        )
    if mode not in get_args(Mode):
        raise HeroError(f"mode is {mode!r}; it is one of {', '.join(get_args(Mode))}.")
    round = open_round(session, rollout)
    round.write_pictures(pictures[..., :3], mode)
    return round


def open_round(session: Session, rollout: Rollout) -> Round:
    """The round that ``rollout`` belongs to; raises :class:`HeroError` where it is over."""
    if rollout.round != session.open_round:
        raise HeroError(
            f"This rollout is of round {rollout.round} and session {session.name!r} is at round {session.open_round}: "
            "that round is saved. Queue again to draw the next one."
        )
    return session.round(rollout.round)


def feedback_of(session: Session, rollout: Rollout) -> Feedback | None:
    """The submitted marks of the open round; None until they are."""
    marks = open_round(session, rollout).marks()
    return marks.feedback if marks.submitted else None


def learn_reward(
    session: Session,
    rollout: Rollout,
    feedback: Feedback,
    settings: EmbeddingSettings,
    mode: RewardMode = "best",
    *,
    device: torch.device | str = "cpu",
    progress: Progress = no_progress,
) -> RewardResult:
    """Train the embedding on the round's marks and reward every picture of the round, see :func:`.preference.learn`."""
    before, seed = session.state().embedding, session.settings.seed
    anchor = _anchor(session, rollout, feedback)
    return learn(
        before, rollout, feedback, anchor, settings, mode, seed=seed, compact=session.compact, device=device,
        progress=progress,
    )  # fmt: skip


def _anchor(session: Session, rollout: Rollout, feedback: Feedback) -> Tensor | None:
    """``z_0`` of the best: indexed by picture, or the kept one."""
    if isinstance(feedback.best, int):
        return rollout.z_0[feedback.best]
    best = session.state().best
    return best.z_0 if best is not None and feedback.best == KEEP else None


def update_lora(
    session: Session,
    policy: Policy,
    rollout: Rollout,
    reward: RewardResult,
    settings: OptimizerSettings,
    progress: Progress = no_progress,
) -> LoRAResult:
    """One round's update of the LoRA by the rule whose ``settings`` these are (:data:`RULES`).

    Where ``reward.skip`` says so, the LoRA as it was.
    """
    open_round(session, rollout)
    session.refuse_another(policy.fingerprint, policy.description)
    lora = current_lora(session, policy)
    keys = policy.lora_keys(lora_paths(lora.weights))
    if reward.skip:
        return LoRAResult(lora, keys, reward.skip, model=policy.about)
    learned = _with_earlier(session, rollout, reward, settings)
    rule, seed = RULES[type(settings)], session.settings.seed
    state, metrics = rule(policy, lora, *learned, settings, seed=seed, progress=progress)
    return LoRAResult(state, keys, None, metrics, policy.about)


def _with_earlier(
    session: Session, rollout: Rollout, reward: RewardResult, settings: OptimizerSettings
) -> tuple[Rollout, Reward]:
    """This round, behind the last ``replay`` ones where the rule has it; they are rewarded by the present embedding."""
    if not isinstance(settings, ForwardSettings) or settings.replay == 0:
        return rollout, reward
    rounds = range(max(1, rollout.round - settings.replay), rollout.round)
    earlier = [(kept, round.marks().feedback) for round in map(session.round, rounds) if (kept := round.rollout())]
    rewards = torch.cat([*(reward.again(kept.z_0, marks) for kept, marks in earlier), reward.rewards])
    weights = torch.full((len(rewards),), settings.replay_weight)
    weights[-rollout.n :] = 1.0
    marks = Feedback.join([*(feedback for _, feedback in earlier), reward.feedback])
    return join([*(kept for kept, _ in earlier), rollout]), Reward(rewards, marks, weights=weights)


def next_mixture(session: Session, rollout: Rollout, feedback: Feedback, settings: MixtureSettings) -> Mixture | None:
    """The noise of the next round: near the best and the goods of this one.

    Without a good picture the mixture stays as it is (None in the first round: draw fresh noise again).
    """
    before = session.state()
    if not rollout.noise_known:
        raise HeroError(
            "The noise that these pictures were drawn from is not known, so there is no refined noise: wire the same "
            "NOISE into the sampler and into Rate Any Latents, or leave Latent Mixture out."
        )
    if not feedback.good:
        return replace(before.mixture, settings=settings) if before.mixture else None
    best = rollout.z_T[feedback.best] if isinstance(feedback.best, int) else _kept(before).z_T
    return Mixture(best, rollout.z_T[feedback.good], settings)


def _kept(state: State) -> Best:
    if state.best is None:
        raise HeroError("There is no old best to keep: pick the best of this round's pictures.")
    if not state.best.z_T.numel():
        raise HeroError("The noise of the old best is not known: pick the best of this round's pictures.")
    return state.best


def save_round(
    session: Session,
    reward: RewardResult | None = None,
    lora: LoRAResult | None = None,
    mixture: Mixture | None = None,
) -> SavedRound:
    """Save the open round and begin the next: the one step that changes the session.

    What is left out is an ablation: no ``lora`` keeps the LoRA, no ``mixture`` draws fresh noise next time.
    """
    round = session.round(session.open_round)
    marks, rollout = round.marks(), kept_rollout(session)
    if rollout is None:
        raise HeroError(
            f"Round {round.number} of session {session.name!r} has no rollout on the disk: queue again to draw it. Its "
            "marks are kept."
        )
    if not marks.submitted:
        raise HeroError(f"Round {round.number} of session {session.name!r} is not rated yet: submit its marks first.")
    before = session.state()
    best = _best_after(before, rollout, marks.feedback)
    embedding = reward.embedding if reward else None
    state = State(lora.state if lora else before.lora, embedding or before.embedding, best, mixture)
    metrics = {
        "marks": len(marks.feedback.labels), **counts(marks.feedback),
        **(reward.metrics if reward else {}), **(lora.metrics if lora else {}),
        "skip": (lora and lora.skip) or (reward and reward.skip) or None,
        "best": {"round": best.round, "picture": best.picture} if best else None,
        "saved": time.time(),
    }  # fmt: skip
    file = _lora_file(session, metrics, lora) if lora else None
    saved = session.save(state, metrics, file, session.picture_of(best) if lora else None)
    return SavedRound(round.number, saved, metrics)


def _best_after(before: State, rollout: Rollout, feedback: Feedback) -> Best | None:
    if not isinstance(feedback.best, int):
        return before.best
    z_T = rollout.z_T[feedback.best] if rollout.noise_known else rollout.z_T
    return Best(rollout.z_0[feedback.best], z_T, rollout.round, feedback.best)


def _lora_file(session: Session, metrics: dict[str, Any], lora: LoRAResult) -> LoRAFile:
    marks, good = (sum(int(entry.get(key) or 0) for entry in (*session.history, metrics)) for key in ("marks", "good"))
    taught = Taught(
        session.name, session.open_round, session.settings.seed, marks, good, metrics["saved"], session.description,
        lora.model, json.dumps({session.name: {session.description.get("prompt", ""): good}}),
    )  # fmt: skip
    name = next(iter(lora.keys.values()))
    metadata = shared_metadata(taught, name if isinstance(name, str) else name[0].name)
    return lora_file(lora.state, lora.keys, metadata)
