# SPDX-License-Identifier: Apache-2.0
"""One judge per task: reads pixels, says good or not, and ranks the good ones.

A judge takes pictures ``(n, 3, H, W)`` float in [0, 1] and returns a `Judgement`. It is strict: what is blurred,
half there or ambiguous is not good. Colours and sizes are those of `canvas`; lengths are pixels of a 128x128 picture,
to which other sizes are resampled first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from .canvas import CABINS, NIGHTS, SIZE, SKIES, TABLES, VASES, WALL_HUES

Pictures = torch.Tensor | np.ndarray


@dataclass(frozen=True)
class Judgement:
    """good: ``(n,)`` bool; quality: ``(n,)`` float32 in [0, 1], higher is clearer; compare it among goods."""

    good: np.ndarray
    quality: np.ndarray


@dataclass(frozen=True)
class Blob:
    """A mask in numbers: pixels, centre, bounding box (inclusive), and spread (1 for a disc, more if scattered)."""

    area: int
    x: float
    y: float
    left: int
    right: int
    top: int
    bottom: int
    spread: float

    @property
    def width(self) -> int:
        return self.right - self.left + 1

    @property
    def height(self) -> int:
        return self.bottom - self.top + 1


EMPTY = Blob(0, -1.0, -1.0, -1, -1, -1, -1, np.inf)


def as_rows(pictures: Pictures) -> np.ndarray:
    """Pictures ``(n, 3, H, W)`` in [0, 1] as ``(n, 128, 128, 3)`` float32; raises ValueError on other shapes."""
    t = torch.as_tensor(pictures).detach().float().cpu()
    if t.ndim != 4 or t.shape[1] != 3:
        raise ValueError(f"pictures have shape {tuple(t.shape)}; judges read (n, 3, H, W) in [0, 1]")
    if t.shape[2:] != (SIZE, SIZE):
        t = F.interpolate(t, size=(SIZE, SIZE), mode="area" if t.shape[2] > SIZE else "bilinear")
    return t.permute(0, 2, 3, 1).numpy()


def blob(mask: np.ndarray, least: int = 1) -> Blob:
    """Measure a boolean mask; rows and columns with fewer than ``least`` pixels do not count for the bounding box."""
    area = int(mask.sum())
    rows, columns = np.flatnonzero(mask.sum(1) >= least), np.flatnonzero(mask.sum(0) >= least)
    if not len(rows) or not len(columns):
        return EMPTY
    ys, xs = np.nonzero(mask)
    spread = float((xs.var() + ys.var()) * 2 * np.pi / max(area, 1))
    edges = (int(columns[0]), int(columns[-1]), int(rows[0]), int(rows[-1]))
    return Blob(area, float(xs.mean()), float(ys.mean()), *edges, spread)


def runs(profile: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """Stretches ``[start, end)`` over which a profile stays at or above a threshold."""
    edges = np.diff(np.concatenate([[0], (profile >= threshold).astype(np.int8), [0]]))
    return list(zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True))


def _near(value: float, ideal: float, width: float) -> float:
    """1 at the ideal, falling to 0 at ``width`` away from it."""
    return float(max(0.0, 1.0 - abs(value - ideal) / width))


def _share(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else 0.0


def _nearest(colour: np.ndarray, table: list) -> int:
    return int(np.argmin([np.square(colour - np.asarray(c)).sum() for c in table]))


def _each(judge_one: Callable[[np.ndarray], tuple[bool, float]]) -> Callable[[Pictures], Judgement]:
    """Turn a judge of one picture ``(128, 128, 3)`` into one of many."""

    def judge(pictures: Pictures) -> Judgement:
        verdicts = [judge_one(picture) for picture in as_rows(pictures)]
        good = np.array([bool(v[0]) for v in verdicts], dtype=bool)
        return Judgement(good, np.clip(np.array([v[1] for v in verdicts], dtype=np.float32), 0, 1))

    judge.__doc__ = judge_one.__doc__
    return judge


# --- masks ------------------------------------------------------------------------------------------------------------


def blue_mask(p: np.ndarray) -> np.ndarray:
    """Saturated blue, as the petals of a blue rose."""
    return (p[..., 2] - np.maximum(p[..., 0], p[..., 1])) > 0.26


def black_mask(p: np.ndarray) -> np.ndarray:
    """The cat's coat."""
    return p.max(-1) < 0.22


def tan_mask(p: np.ndarray) -> np.ndarray:
    """Cardboard in the light (the box's rim, not its inside)."""
    r, g, b = p[..., 0], p[..., 1], p[..., 2]
    return (r > 0.60) & (r - b > 0.26) & (r - g > 0.08) & (r - g < 0.32)


def red_mask(p: np.ndarray) -> np.ndarray:
    """Saturated red: apples, warning signs."""
    return (p[..., 0] - np.maximum(p[..., 1], p[..., 2])) > 0.34


def yellow_mask(p: np.ndarray, threshold: float) -> np.ndarray:
    """Petals of the narcissus: red and green well above blue."""
    return np.minimum(p[..., 0], p[..., 1]) - p[..., 2] > threshold


# --- judges -----------------------------------------------------------------------------------------------------------


def judge_one_rose(p: np.ndarray) -> tuple[bool, float]:
    """Good: one compact, saturated blue flower over the vase."""
    upper = p[:80]
    mask = blue_mask(upper)
    b = blob(mask, least=2)
    if not 250 <= b.area <= 1800:
        return False, 0.0
    ys, xs = np.mgrid[: upper.shape[0], : upper.shape[1]]
    disc = (xs - b.x) ** 2 + (ys - b.y) ** 2 < 0.8 * b.area / np.pi
    core = float(mask[disc].mean())
    others = _share(float((red_mask(upper) | yellow_mask(upper, 0.4))[disc].sum()), float(disc.sum()))
    depth = float((upper[..., 2] - np.maximum(upper[..., 0], upper[..., 1]))[mask].mean())
    purple = float((upper[..., 0] - upper[..., 1])[mask].mean())
    clear = core > 0.80 and depth > 0.36 and purple < 0.10 and others < 0.08
    good = clear and b.spread < 1.45 and b.y < 62
    quality = 0.4 * _near(depth, 0.60, 0.35) + 0.3 * _near(b.spread, 1.04, 0.4) + 0.3 * _near(core, 1.0, 0.3)
    return good, quality


def judge_one_cat(p: np.ndarray) -> tuple[bool, float]:
    """Good: the black cat lies wholly within the outline of the cardboard box."""
    cat, box = blob(black_mask(p), least=3), blob(tan_mask(p), least=4)
    if not (230 <= cat.area <= 1500 and box.area >= 450):
        return False, 0.0
    within = black_mask(p)[box.top : box.bottom + 1, box.left : box.right + 1].sum() / cat.area
    size_ok = 40 <= box.width <= 72 and 34 <= box.height <= 60
    margins = min(cat.left - box.left, box.right - cat.right, cat.top - box.top)
    good = bool(within > 0.95 and size_ok and margins >= 1 and cat.height >= 22 and cat.spread < 2.2)
    quality = 0.4 * _near(margins, 8, 10) + 0.3 * _near(cat.spread, 1.45, 0.6) + 0.3 * _near(cat.area, 560, 400)
    return good, quality


def judge_one_narcissus(p: np.ndarray) -> tuple[bool, float]:
    """Good: a yellow flower above the water line and one like it, upside down, straight below."""
    line = _water_line(p)
    if line is None:
        return False, 0.0
    flower = blob(yellow_mask(p[:line], 0.30), least=3)
    image = blob(yellow_mask(p[line:], 0.08), least=3)
    if flower.area < 180 or image.area < 120:
        return False, 0.0
    shift, ratio = abs(flower.x - image.x), image.area / flower.area
    skew = abs((line - flower.y) - image.y)
    good = shift < 12 and skew < 9 and 0.4 < ratio < 2.0 and flower.spread < 2.0 and image.spread < 2.0
    quality = 0.35 * _near(shift, 0, 12) + 0.35 * _near(skew, 0, 9) + 0.3 * _near(image.spread, 1.15, 0.8)
    return good, quality


def _water_line(p: np.ndarray) -> int | None:
    """The row at which land ends and blue water fills the picture to the bottom; None without water."""
    blue = (p[..., 2] - p[..., 0] > 0.12) & (p[..., 2] - p[..., 1] > 0.03) & (p[..., 0] < 0.45)
    wet = np.concatenate([blue[:, :24], blue[:, -24:]], axis=1).mean(1) > 0.6
    dry = np.flatnonzero(~wet[40:110])
    line = 40 + (int(dry[-1]) + 1 if len(dry) else 0)
    return line if 50 <= line <= 80 and wet[line:].mean() > 0.9 else None


def judge_one_window(p: np.ndarray) -> tuple[bool, float]:
    """Good: a wall of one colour on three sides, a dark rim inside it, and a landscape within the rim."""
    bands = [p[1:7, 12:-12].reshape(-1, 3), p[12:90, 1:8].reshape(-1, 3), p[12:90, -8:-1].reshape(-1, 3)]
    means = np.stack([band.mean(0) for band in bands])
    noise = float(np.mean([band.std(0).mean() for band in bands]))
    apart = float(np.ptp(means, axis=0).max())
    rims = [_rim(p[:, 40:88].mean(1)[4:24]), _rim(p[30:80].mean(0)[4:26]), _rim(p[30:80].mean(0)[::-1][4:26])]
    inside = p[26:88, 26:102]
    scenery = float(inside.reshape(-1, 3).std(0).max())
    darker = float(means.max(-1).mean()) - max(rims)
    good = apart < 0.10 and noise < 0.06 and max(rims) < 0.54 and darker > 0.03 and scenery > 0.06
    quality = 0.35 * _near(apart, 0, 0.1) + 0.35 * _near(noise, 0, 0.06) + 0.3 * _near(max(rims), 0.2, 0.3)
    return good, quality


def _rim(profile: np.ndarray) -> float:
    """The darkest value of a stretch ``(k, 3)`` of mean colours: about .2 where it crosses the window's rim."""
    return float(profile.max(-1).min())


def judge_one_apples(p: np.ndarray) -> tuple[bool, float]:
    """Good: exactly three red apples, apart, round, of one size, and nothing else red."""
    mask = red_mask(p)
    profile = mask.sum(0)
    found = [(a, b) for a, b in runs(profile, 3) if profile[a:b].sum() >= 25]
    if len(found) != 3:
        return False, 0.0
    parts = [blob(mask[:, a:b], least=2) for a, b in found]
    areas = np.array([part.area for part in parts], dtype=float)
    aspect = [part.width / max(part.height, 1) for part in parts]
    same = areas.min() / areas.max()
    round_enough = all(0.65 < a < 1.5 for a in aspect) and all(part.spread < 1.4 for part in parts)
    good = bool(same > 0.55 and round_enough and areas.min() > 170 and areas.max() < 800)
    gaps = np.array([found[1][0] - found[0][1], found[2][0] - found[1][1]], dtype=float)
    quality = 0.4 * same + 0.3 * _near(max(part.spread for part in parts), 1.03, 0.3) + 0.3 * _near(gaps.min(), 6, 6)
    return good, quality


def judge_one_street(p: np.ndarray) -> tuple[bool, float]:
    """Good: a dark street with lit windows and nothing of the red warning sign."""
    red = int(((p[..., 0] - np.maximum(p[..., 1], p[..., 2])) > 0.22).sum())
    sky, road = p[:24].mean(), p[100:].mean()
    lit = int((yellow_mask(p, 0.22) & (p[..., 0] > 0.6)).sum())
    good = red <= 8 and sky < 0.40 and road < 0.42 and lit >= 60
    quality = 0.5 * _near(red, 0, 9) + 0.5 * min(1.0, lit / 400)
    return good, quality


JUDGES: dict[str, Callable[[Pictures], Judgement]] = {
    "colour": _each(judge_one_rose),
    "place": _each(judge_one_cat),
    "reflection": _each(judge_one_narcissus),
    "frame": _each(judge_one_window),
    "count": _each(judge_one_apples),
    "not_this": _each(judge_one_street),
}
"""Task name -> judge ``(pictures) -> Judgement``."""


# --- free attributes --------------------------------------------------------------------------------------------------


def _hue_bin(colour: np.ndarray, bins: int = WALL_HUES) -> int:
    """The hue of a colour, rounded to one of ``bins`` evenly spaced hues."""
    r, g, b = (float(c) for c in colour)
    return round(float(np.degrees(np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b))) / 360 * bins) % bins


def _place_bin(x: float, low: float = 30, high: float = 98, bins: int = 4) -> int:
    return int(np.clip((x - low) / (high - low) * bins, 0, bins - 1))


def _wall(p: np.ndarray) -> np.ndarray:
    return np.concatenate([p[2:22, 2:16].reshape(-1, 3), p[2:22, -16:-2].reshape(-1, 3)]).mean(0)


def _read_rose(p: np.ndarray) -> dict[str, int]:
    wall = _wall(p)
    x = blob(np.abs(p[100:106] - np.median(p[100:106], axis=1, keepdims=True)).max(-1) > 0.15).x
    x = 64.0 if x < 0 else x
    vase = p[92:102, max(0, int(x) - 1) : int(x) + 6].reshape(-1, 3).mean(0)
    table = p[120:126].reshape(-1, 3).mean(0)
    return {
        "wall": _hue_bin(wall),
        "vase": _nearest(vase, list(VASES.values())),
        "table": _nearest(table, list(TABLES.values())),
        "position": _place_bin(x),
    }


def _read_cat(p: np.ndarray) -> dict[str, int]:
    floor = np.concatenate([p[96:126, 1:5].reshape(-1, 3), p[96:126, -5:-1].reshape(-1, 3)]).mean(0)
    return {"wall": _hue_bin(_wall(p)), "floor": _hue_bin(floor), "position": _place_bin(blob(tan_mask(p), least=4).x)}


def _read_narcissus(p: np.ndarray) -> dict[str, int]:
    sky = p[1:10].reshape(-1, 3).mean(0)
    flower = blob(yellow_mask(p[:64], 0.30), least=3)
    return {"sky": _nearest(sky, [top for top, _ in SKIES.values()]), "position": _place_bin(flower.x)}


def _read_window(p: np.ndarray) -> dict[str, int]:
    cabin = np.concatenate([p[20:80, 1:6].reshape(-1, 3), p[20:80, -6:-1].reshape(-1, 3)]).mean(0)
    sky = p[22:27, 30:98].reshape(-1, 3).mean(0)
    tops = [np.asarray(top) * 0.82 + np.asarray(bottom) * 0.18 for top, bottom in SKIES.values()]
    return {"sky": _nearest(sky, tops), "cabin": _nearest(cabin, list(CABINS.values()))}


def _read_apples(p: np.ndarray) -> dict[str, int]:
    table = p[116:126].reshape(-1, 3).mean(0)
    row = blob(red_mask(p), least=2)
    return {
        "wall": _hue_bin(_wall(p)),
        "table": _nearest(table, list(TABLES.values())),
        "position": _place_bin(row.x, 44, 84),
    }


def _read_street(p: np.ndarray) -> dict[str, int]:
    sky = np.median(p[2:30].reshape(-1, 3), axis=0)
    mid = [0.85 * np.asarray(top) + 0.15 * np.asarray(bottom) for top, bottom in NIGHTS.values()]
    moon = blob((p[:36].min(-1) > 0.62), least=2)
    return {"sky": _nearest(sky, mid), "moon": 4 if moon.area < 40 else _place_bin(moon.x, 14, 114)}


_READERS = {
    "colour": _read_rose,
    "place": _read_cat,
    "reflection": _read_narcissus,
    "frame": _read_window,
    "count": _read_apples,
    "not_this": _read_street,
}


def free_attributes(task: str, pictures: Pictures) -> dict[str, np.ndarray]:
    """What the prompt of ``task`` leaves free, read coarsely: attribute name -> ``(n,)`` bin numbers.

    Raises ValueError for an unknown task.
    """
    if task not in _READERS:
        raise ValueError(f"unknown task {task!r}; choose one of {', '.join(_READERS)}")
    found = [_READERS[task](picture) for picture in as_rows(pictures)]
    names = found[0] if found else _READERS[task](np.full((SIZE, SIZE, 3), 0.5, np.float32))
    return {name: np.array([row[name] for row in found], dtype=np.int64) for name in names}
