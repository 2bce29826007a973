# SPDX-License-Identifier: Apache-2.0
"""Pictures for people: the embedding as a map, a session as curves, a round as a contact sheet. Drawn with PIL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .feedback import Feedback

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

    from .preference import RewardResult

PAPER, INK, PALE = (252, 252, 250), (40, 42, 46), (214, 216, 220)
GOOD, BAD, BEST, UNRATED = (38, 135, 82), (200, 62, 62), (224, 160, 0), (150, 154, 162)
COLOURS = {"good": GOOD, "bad": BAD, "best": BEST, "unrated": UNRATED}

Box = tuple[int, int, int, int]


def to_batch(image: Image) -> Tensor:
    """A PIL image as ``(1, H, W, 3)`` float32 in 0..1."""
    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255)[None]


def kinds(feedback: Feedback) -> list[str]:
    """``best``, ``good``, ``bad`` or ``unrated`` for each picture of the round."""
    found = [feedback.labels.get(picture, "unrated") for picture in range(feedback.n)]
    if isinstance(feedback.best, int):
        found[feedback.best] = "best"
    return list(found)


def embedding_map(result: RewardResult) -> Image:
    """The round on the embedding's two main axes, coloured by mark, and below it the rewards by mark."""
    image, draw = _sheet(720, 640)
    marks = kinds(result.feedback)
    _text(draw, (24, 18), "The round as the embedding sees it", 20)
    _legend(draw, (24, 48), marks)
    _scatter(draw, (24, 76, 696, 440), result.map, marks)
    if result.skip:
        _paragraph(draw, (24, 462, 696, 640), result.skip)
        return image
    auc = result.metrics.get("auc", float("nan"))
    _text(draw, (24, 456), f"Rewards   (good above bad in {auc:.0%} of pairs)" if auc == auc else "Rewards", 16)
    _strips(draw, (24, 484, 696, 620), result.rewards, marks)
    return image


def curves(name: str, history: Sequence[dict[str, Any]]) -> Image:
    """A session as curves over its rounds: share of good pictures, distance from the base model, held-out ranking.

    Where the last round asked a critic, its values along two pictures and the KL of each step stand below.
    """
    critic = bool(history) and "values" in history[-1]
    image, draw = _sheet(720, 880 if critic else 640)
    rounds = [entry["round"] for entry in history]
    marks = sum(entry.get("marks", 0) for entry in history)
    _text(draw, (24, 18), f"{name}: {len(rounds)} round{'s' * (len(rounds) != 1)}, {marks} marks", 20)
    shares = [_share(entry) for entry in history]
    _curve(draw, (24, 60, 696, 300), "Good among the rated pictures", rounds, shares, (0.0, 1.0), percent=True)
    panels = [
        ("KL to the base model, per scored step", "kl_to_base"),
        ("Good above bad, before this round's training", "heldout_auc"),
    ]
    for (title, key), left in zip(panels, (24, 372), strict=True):
        values = [entry.get(key) for entry in history]
        limits = (0.0, 1.0) if key == "heldout_auc" else None
        _curve(draw, (left, 330, left + 324, 540), title, rounds, values, limits, percent=limits is not None)
    if critic:
        _value_paths(draw, (24, 560, 348, 770), history[-1]["values"])
        steps, kl = zip(*history[-1]["kl_by_step"], strict=True)
        _curve(draw, (372, 560, 696, 770), "KL to the base model, by step", list(steps), list(kl), None, percent=False)
    _paragraph(draw, (24, 800 if critic else 560, 696, image.height), _last_words(history))
    return image


def contact_sheet(pictures: Tensor, feedback: Feedback | None = None, columns: int = 8, side: int = 96) -> Image:
    """Pictures ``(n, H, W, 3)`` in 0..1 as one image, framed by their marks where there are any."""
    from PIL import Image as PIL

    from .store.files import to_image

    marks = kinds(feedback) if feedback else ["unrated"] * len(pictures)
    rows, cell = -(-len(pictures) // columns), side + 8
    sheet = PIL.new("RGB", (columns * cell, rows * cell), PAPER)
    for number, (picture, mark) in enumerate(zip(pictures, marks, strict=True)):
        x, y = number % columns * cell, number // columns * cell
        if mark != "unrated":
            sheet.paste(COLOURS[mark], (x + 1, y + 1, x + cell - 1, y + cell - 1))
        sheet.paste(to_image(picture).resize((side, side)), (x + 4, y + 4))
    return sheet


# -- parts -------------------------------------------------------------------------------------------------------------


def _sheet(width: int, height: int) -> tuple[Image, ImageDraw]:
    from PIL import Image as PIL
    from PIL import ImageDraw as Draw

    image = PIL.new("RGB", (width, height), PAPER)
    return image, Draw.Draw(image)


def _text(draw: ImageDraw, place: tuple[int, int], text: str, size: int = 13, colour: tuple = INK, **more: Any) -> None:
    from PIL import ImageFont

    draw.text(place, text, fill=colour, font=ImageFont.load_default(size), **more)


def _paragraph(draw: ImageDraw, box: Box, text: str, size: int = 14) -> None:
    """Text broken at word ends to the width of ``box``."""
    from PIL import ImageFont

    font, line, y = ImageFont.load_default(size), "", box[1]
    for word in [*text.split(), ""]:
        longer = f"{line} {word}".strip()
        if word and draw.textlength(longer, font) <= box[2] - box[0]:
            line = longer
            continue
        draw.text((box[0], y), line, fill=INK, font=font)
        line, y = word, y + size + 6


def _legend(draw: ImageDraw, place: tuple[int, int], marks: list[str]) -> None:
    x, y = place
    for mark, colour in COLOURS.items():
        label = f"{mark} {marks.count(mark)}"
        draw.ellipse((x, y + 3, x + 10, y + 13), fill=colour)
        _text(draw, (x + 16, y), label)
        x += 110


def _scatter(draw: ImageDraw, box: Box, points: Tensor, marks: list[str]) -> None:
    draw.rectangle(box, outline=PALE)
    if len(points) == 0:
        return
    low, high = points.min(0).values, points.max(0).values
    unit = (points - low) / (high - low).clamp(min=1e-12)
    left, top, right, bottom = box[0] + 14, box[1] + 14, box[2] - 14, box[3] - 14
    order = sorted(range(len(marks)), key=lambda i: ["unrated", "bad", "good", "best"].index(marks[i]))
    for i in order:
        x, y = left + float(unit[i, 0]) * (right - left), bottom - float(unit[i, 1]) * (bottom - top)
        radius = 9 if marks[i] == "best" else 6
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[marks[i]], outline=PAPER)


def _strips(draw: ImageDraw, box: Box, rewards: Tensor, marks: list[str]) -> None:
    """One row of ticks for each kind of mark, on a common axis of rewards."""
    left, top, right, bottom = box[0] + 64, box[1], box[2] - 12, box[3] - 18
    low, high = float(rewards.min()), float(rewards.max())
    present = [mark for mark in ("best", "good", "bad", "unrated") if mark in marks]
    height = (bottom - top) / max(1, len(present))
    for row, mark in enumerate(present):
        y = top + row * height
        _text(draw, (box[0], int(y + height / 2 - 8)), mark, colour=COLOURS[mark])
        draw.line((left, y + height - 4, right, y + height - 4), fill=PALE)
        for i in (i for i, m in enumerate(marks) if m == mark):
            x = left + (float(rewards[i]) - low) / max(high - low, 1e-12) * (right - left)
            draw.line((x, y + 3, x, y + height - 5), fill=COLOURS[mark], width=2)
    _text(draw, (left, bottom + 2), f"{low:.4f}", 12)
    _text(draw, (right, bottom + 2), f"{high:.4f}", 12, anchor="ra")


def _curve(
    draw: ImageDraw, box: Box, title: str, rounds: list[int], values: list, limits: tuple[float, float] | None,
    *, percent: bool,
) -> None:  # fmt: skip
    """One curve with its points written beside it; ``None`` leaves a gap."""
    _text(draw, (box[0], box[1]), title, 14)
    left, top, right, bottom = box[0] + 48, box[1] + 30, box[2] - 16, box[3] - 22
    known = [(r, float(v)) for r, v in zip(rounds, values, strict=True) if v is not None and v == v]
    high = limits[1] if limits else max([v for _, v in known], default=1.0) or 1.0
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top)
        draw.line((left, y, right, y), fill=PALE)
        label = f"{share * high:.0%}" if percent else f"{share * high:.2g}"
        _text(draw, (left - 6, int(y) - 8), label, 12, anchor="ra")
    first = min(rounds, default=1)
    span = max(1, max(rounds, default=1) - first)
    place = [(left + (r - first) / span * (right - left), bottom - v / high * (bottom - top)) for r, v in known]
    if len(place) > 1:
        draw.line(place, fill=GOOD, width=3)
    for (x, y), (number, _) in zip(place, known, strict=True):
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=GOOD)
        if len(place) <= 12 or number % 10 == 0:
            _text(draw, (int(x), bottom + 4), str(number), 12, anchor="ma")


def _value_paths(draw: ImageDraw, box: Box, paths: dict[str, Any]) -> None:
    """The critic's value along one good and one bad picture, and the reward that they ended with."""
    _text(draw, (box[0], box[1]), "Value along a good and a bad picture", 14)
    left, top, right, bottom = box[0] + 48, box[1] + 30, box[2] - 16, box[3] - 22
    values = [value for path in paths.values() for value in path["values"]]
    low, high = min(values, default=0.0), max(values, default=1.0)
    last = max((path["steps"][-1] for path in paths.values()), default=1)
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top)
        draw.line((left, y, right, y), fill=PALE)
        _text(draw, (left - 6, int(y) - 8), f"{low + share * (high - low):.3g}", 12, anchor="ra")
    for kind, path in paths.items():
        pairs = zip(path["steps"], path["values"], strict=True)
        place = [(left + s / last * (right - left), bottom - (v - low) / max(high - low, 1e-12) * (bottom - top))
                 for s, v in pairs]  # fmt: skip
        draw.line(place, fill=COLOURS[kind], width=3)
        for x, y in place:
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=COLOURS[kind])
    for step in (0, last):
        x = int(left + step / last * (right - left))
        _text(draw, (x, bottom + 4), f"step {step}", 12, anchor="ma" if step == 0 else "ra")


def _share(entry: dict[str, Any]) -> float | None:
    rated = entry.get("good", 0) + entry.get("bad", 0)
    return entry["good"] / rated if rated else None


def _last_words(history: Sequence[dict[str, Any]]) -> str:
    if not history:
        return "No round is saved yet."
    last = history[-1]
    if last.get("skip"):
        return f"Round {last['round']}: {last['skip']}"
    if not last.get("optimizer_steps"):
        return f"Round {last['round']}: the LoRA was not updated."
    if last.get("ratio_error") is None:
        return f"Round {last['round']}: {last['optimizer_steps']:.0f} optimiser steps."
    words = (
        f"Round {last['round']}: {last['optimizer_steps']:.0f} optimiser steps, {last['clip_fraction']:.0%} of "
        f"transitions clipped, max |ratio - 1| before the first step {last['ratio_error']:.1e}."
    )
    if last.get("critic_r2") is None:
        return words
    share = max(0.0, last["critic_r2"])  # below 0: further off than the mean would be
    explained = f"On pictures that it had not learned from, the critic explained {share:.0%} of the rewards"
    if last["advantage"] == "mean":
        return f"{words} {explained}, too little: the round learned as DDPO does."
    told = "which way its worth rises" if last["advantage"] == "gradient" else "what it was worth"
    return f"{words} {explained} and told each step {told} ({last['advantage']})."
