# SPDX-License-Identifier: Apache-2.0
"""Renderers of the six families of scenes which the tiny model knows, and their captions.

Each renderer takes a ``numpy.random.Generator`` and returns a `Scene`: a 128x128 picture, whether it shows what the
task of the family asks for, a word for the variant, and captions. Coordinates are pixels of the 128x128 picture, x to
the right and y down; colours are RGB in [0, 1].

The captions are the point. As in the data of real checkpoints, the *task prompt* is unreliable about the one attribute
that it asks for (a "blue rose" caption mostly sits on roses of other colours), whereas the *plain captions* are right.
The attribute has the same distribution under both, so guidance towards the caption does not shift it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .canvas import (
    CABINS,
    FLOORS,
    NIGHTS,
    ROSES,
    SIZE,
    SKIES,
    SUPERSAMPLE,
    TABLES,
    VASES,
    Canvas,
    Colour,
    blend,
    jitter,
    pastel,
    pick,
    shade,
)
from .words import PROMPTS

SUCCESS_RATES = {"colour": 0.34, "place": 0.32, "reflection": 0.54, "frame": 0.34, "count": 0.15, "not_this": 0.08}
"""Share of the training scenes of a family that show what the task asks for."""


@dataclass(frozen=True)
class Scene:
    """One rendered scene.

    picture: ``(128, 128, 3)`` uint8; success: whether it shows what the family's task asks for; variant: in a word,
    what it shows instead; captions: true descriptions of it in plain words.
    """

    picture: np.ndarray
    success: bool
    variant: str
    captions: tuple[str, ...]


def _fails(rng: np.random.Generator, task: str, success: bool | None) -> bool:
    return rng.random() >= SUCCESS_RATES[task] if success is None else not success


# --- colour -----------------------------------------------------------------------------------------------------------


def _draw_rose(canvas: Canvas, x: float, y: float, r: float, colour: Colour, turn: float) -> None:
    """Five outer petals, a heart, and two arcs that suggest the spiral."""
    for k in range(5):
        angle = turn + k * 2 * np.pi / 5
        px, py = x + 0.48 * r * np.cos(angle), y + 0.48 * r * np.sin(angle)
        canvas.ellipse(px, py, 0.62 * r, 0.62 * r, shade(colour, 0.86 if k % 2 else 0.97))
    canvas.ellipse(x, y, 0.62 * r, 0.62 * r, colour)
    canvas.arc(x, y, 0.62 * r, 20, 200, shade(colour, 0.66), 1.5)
    canvas.arc(x, y, 0.34 * r, 180, 400, shade(colour, 0.66), 1.5)


def rose(rng: np.random.Generator, success: bool | None = None) -> Scene:
    """Family "colour": a rose in a vase on a table; success is a blue rose."""
    others = [name for name in ROSES if name != "blue"]
    colour = str(rng.choice(others)) if _fails(rng, "colour", success) else "blue"
    vase, table = pick(rng, VASES), pick(rng, TABLES)
    canvas = Canvas(pastel(rng))
    edge = rng.uniform(94, 102)
    table_colour = jitter(rng, TABLES[table])
    canvas.rect(0, edge, SIZE, SIZE, table_colour)
    x, foot, top = rng.uniform(38, 90), edge + rng.uniform(10, 16), rng.uniform(72, 80)
    neck, belly = rng.uniform(5.5, 8), rng.uniform(11, 16)
    flower_x, flower_y, r = x + rng.uniform(-7, 7), rng.uniform(32, 44), rng.uniform(14, 18)
    canvas.ellipse(x, foot, belly * 1.15, 3.5, shade(table_colour, 0.75))
    canvas.line([(x, top + 4), (flower_x, flower_y)], (0.20, 0.48, 0.20), 2.5)
    side = 1 if rng.random() < 0.5 else -1
    leaf_y = 0.5 * (top + flower_y) + 6
    canvas.ellipse(0.5 * (x + flower_x) + 6 * side, leaf_y, 6, 2.8, (0.26, 0.56, 0.24))
    vase_colour = jitter(rng, VASES[vase])
    canvas.rect(x - neck, top, x + neck, foot - 10, vase_colour, 2)
    canvas.ellipse(x, foot - 14, belly, 14, vase_colour)
    canvas.ellipse(x - 0.4 * belly, foot - 18, 0.16 * belly, 5, blend(vase_colour, (1, 1, 1), 0.45))
    canvas.ellipse(x, top, neck + 1, 2, shade(vase_colour, 0.7))
    _draw_rose(canvas, flower_x, flower_y, r, jitter(rng, ROSES[colour]), rng.uniform(0, 2 * np.pi))
    captions = (
        f"a {colour} rose in a {vase} vase",
        f"a {colour} rose",
        f"one rose in a {vase} vase on a {table} table",
    )
    return Scene(canvas.picture(), colour == "blue", colour, captions)


# --- place ------------------------------------------------------------------------------------------------------------


def _draw_cat(canvas: Canvas, x: float, foot: float, s: float, eyes: Colour, tail: int) -> None:
    """A black cat seen from the front, ``36 * s`` high, its paws at ``(x, foot)``."""
    black: Colour = (0.05, 0.05, 0.07)
    canvas.line(
        [(x + tail * 7 * s, foot - 3 * s), (x + tail * 14 * s, foot - 5 * s), (x + tail * 15 * s, foot - 13 * s)],
        black,
        3 * s,
    )
    canvas.ellipse(x, foot - 11 * s, 10 * s, 11.5 * s, black)
    canvas.ellipse(x, foot - 25 * s, 8.5 * s, 7.5 * s, black)
    for side in (-1, 1):
        tip = (x + side * 7.5 * s, foot - 38 * s)
        canvas.poly([(x + side * 8.3 * s, foot - 26 * s), tip, (x + side * 1.5 * s, foot - 31 * s)], black)
        canvas.ellipse(x + side * 3.4 * s, foot - 25.5 * s, 1.9 * s, 1.7 * s, eyes)


def _draw_box(canvas: Canvas, x0: float, y0: float, x1: float, y1: float, tan: Colour) -> None:
    """A cardboard box with its opening towards the viewer."""
    canvas.rect(x0, y0, x1, y1, tan)
    canvas.rect(x0 + 6, y0 + 6, x1 - 6, y1 - 4, shade(tan, 0.56))
    canvas.poly([(x0 + 6, y1 - 4), (x1 - 6, y1 - 4), (x1 - 11, y1 - 9), (x0 + 11, y1 - 9)], shade(tan, 0.72))
    canvas.rect(x0, y0, x1, y0 + 2, shade(tan, 1.14))


def cat(rng: np.random.Generator, success: bool | None = None) -> Scene:
    """Family "place": a black cat and a cardboard box; success is the cat inside the box."""
    place = str(rng.choice(["left", "right", "top"])) if _fails(rng, "place", success) else "inside"
    wall, floor = pastel(rng), pick(rng, FLOORS)
    canvas = Canvas(wall, shade(wall, 0.9))
    canvas.rect(0, rng.uniform(78, 90), SIZE, SIZE, jitter(rng, FLOORS[floor]))
    width, height, foot = rng.uniform(50, 58), rng.uniform(43, 49), rng.uniform(108, 120)
    centre = {"left": rng.uniform(84, 94), "right": rng.uniform(34, 44)}.get(place, rng.uniform(38, 90))
    tan = jitter(rng, (0.80, 0.61, 0.38))
    x0, x1, y0 = centre - width / 2, centre + width / 2, foot - height
    canvas.ellipse(centre, foot, width * 0.55, 3, (0.28, 0.28, 0.30))
    _draw_box(canvas, x0, y0, x1, foot, tan)
    s = {"inside": 0.88, "top": 1.0}.get(place, 1.05) * rng.uniform(0.94, 1.02)
    x, paws = {
        "inside": (centre + rng.uniform(-5, 5), foot - 5.5),
        "top": (centre + rng.uniform(-10, 10), y0 + 1.5),
        "left": (x0 - rng.uniform(20, 26), foot + rng.uniform(-2, 4)),
        "right": (x1 + rng.uniform(20, 26), foot + rng.uniform(-2, 4)),
    }[place]
    eyes = ((0.95, 0.85, 0.25), (0.45, 0.85, 0.40))[int(rng.integers(2))]
    tail = {"left": -1, "right": 1}.get(place, 1 if rng.random() < 0.5 else -1)
    _draw_cat(canvas, x, paws, s, eyes, tail)
    words = {"inside": "inside", "top": "on top of", "left": "beside", "right": "beside"}[place]
    captions = (
        f"a black cat {words} a cardboard box",
        f"a cat {words} a box on a {floor} floor",
        "a black cat and a box",
    )
    return Scene(canvas.picture(), place == "inside", place, captions)


# --- reflection -------------------------------------------------------------------------------------------------------


def _draw_narcissus(
    canvas: Canvas, x: float, root: float, up: float, height: float, r: float, petal: Colour, veil: tuple[Colour, float]
) -> None:
    """A narcissus on ``(x, root)``; ``up`` = -1 draws it upwards, +1 mirrored; ``veil`` is blended over it."""

    def tint(colour: Colour) -> Colour:
        return blend(colour, *veil)

    y = root + up * height
    canvas.line([(x, root), (x, y)], tint((0.22, 0.50, 0.22)), 2.5)
    for side in (-1, 1):
        tip = (x + side * 9, root + up * 0.6 * height)
        canvas.poly([(x - 1.5, root), tip, (x + 1.5, root)], tint((0.28, 0.58, 0.26)))
    for k in range(6):
        angle = k * np.pi / 3 + np.pi / 6
        px, py = x + 0.58 * r * np.cos(angle), y - up * 0.58 * r * np.sin(angle)
        canvas.ellipse(px, py, 0.44 * r, 0.44 * r, tint(shade(petal, 0.95 if k % 2 else 1.0)))
    canvas.ellipse(x, y, 0.42 * r, 0.42 * r, tint((0.95, 0.52, 0.10)))
    canvas.ellipse(x, y, 0.2 * r, 0.2 * r, tint((0.80, 0.36, 0.06)))


def narcissus(rng: np.random.Generator, success: bool | None = None) -> Scene:
    """Family "reflection": a narcissus over water; success is its mirror image in the water below it."""
    variant = "mirrored"
    if _fails(rng, "reflection", success):
        variant = "shifted" if rng.random() < 0.1 else "none"
    sky = pick(rng, SKIES)
    top, bottom = SKIES[sky]
    canvas = Canvas(jitter(rng, top), blend(top, bottom, 1.0))
    line = rng.uniform(60, 68)
    green = jitter(rng, (0.36, 0.60, 0.30), 0.06)
    canvas.poly(
        [
            (0, line - rng.uniform(6, 16)),
            (64, line - rng.uniform(6, 12)),
            (128, line - rng.uniform(6, 16)),
            (128, line + 4),
            (0, line + 4),
        ],
        green,
    )
    water = jitter(rng, (0.16, 0.42, 0.62), 0.05)
    canvas.rect(0, line, SIZE, SIZE, water)
    for _ in range(4):
        x, y, half = rng.uniform(10, 118), rng.uniform(line + 6, 124), rng.uniform(6, 16)
        canvas.line([(x - half, y), (x + half, y)], blend(water, (1, 1, 1), 0.18), 1)
    x, height, r = rng.uniform(30, 98), rng.uniform(30, 38), rng.uniform(13, 16)
    petal = jitter(rng, ((0.98, 0.88, 0.30), (0.97, 0.78, 0.14))[int(rng.integers(2))], 0.02)
    if variant != "none":
        away = 0.0 if variant == "mirrored" else (1 if x < 64 else -1) * rng.uniform(28, 36)
        _draw_narcissus(canvas, x + away, line + 1, 1, height, r, petal, (water, 0.34))
    _draw_narcissus(canvas, x, line - 1, -1, height, r, petal, (water, 0.0))
    said = {"mirrored": "its reflection in the water", "shifted": "another flower in the water", "none": "plain water"}
    captions = (
        f"narcissus and {said[variant]}",
        f"narcissus at {sky} and {said[variant]}",
        f"a flower by the water at {sky}",
    )
    return Scene(canvas.picture(), variant == "mirrored", variant, captions)


# --- frame ------------------------------------------------------------------------------------------------------------


def _draw_mountains(canvas: Canvas, rng: np.random.Generator) -> None:
    rock = jitter(rng, ((0.42, 0.44, 0.54), (0.40, 0.34, 0.36), (0.32, 0.44, 0.46))[int(rng.integers(3))], 0.04)
    ground = rng.uniform(84, 94)
    peaks = sorted(rng.uniform(8, 120, size=int(rng.integers(2, 4))), key=lambda p: rng.random())
    for i, x in enumerate(peaks):
        y, half = rng.uniform(28, 50), rng.uniform(34, 50)
        canvas.poly([(x - half, ground + 4), (x, y), (x + half, ground + 4)], shade(rock, (1.15, 0.95, 0.8)[i]))
        snow = 0.28
        left, right = (x - snow * half, y + snow * (ground + 4 - y)), (x + snow * half, y + snow * (ground + 4 - y))
        canvas.poly(
            [left, (x, y), right, (x + 0.1 * half, right[1] - 3), (x - 0.08 * half, right[1] + 2)], (0.96, 0.97, 0.99)
        )
    canvas.rect(0, ground, SIZE, SIZE, jitter(rng, (0.34, 0.58, 0.28), 0.06))


def mountains(rng: np.random.Generator, success: bool | None = None) -> Scene:
    """Family "frame": mountains; success is the view through a train window with the cabin around it."""
    framed = not _fails(rng, "frame", success)
    sky, cabin = pick(rng, SKIES), pick(rng, CABINS)
    top, bottom = SKIES[sky]
    canvas = Canvas(jitter(rng, top), bottom)
    if rng.random() < 0.5:
        canvas.ellipse(rng.uniform(26, 102), rng.uniform(24, 36), 6, 6, (1.0, 0.93, 0.62))
    _draw_mountains(canvas, rng)
    if framed:
        _draw_cabin(canvas, rng, jitter(rng, CABINS[cabin]))
    where = f"viewed from a {cabin} train" if framed else "in the open"
    captions = (f"mountains {where}", f"mountains at {sky} {where}", f"beautiful mountains at {sky}")
    return Scene(canvas.picture(), framed, "framed" if framed else "open", captions)


def _draw_cabin(canvas: Canvas, rng: np.random.Generator, wall: Colour) -> None:
    """Cover all but a window with the wall of a cabin, then rim, sill and a seat back below."""
    x0, y0, x1, y1 = rng.uniform(14, 20), rng.uniform(12, 18), rng.uniform(108, 114), rng.uniform(94, 102)
    view = canvas.image.copy()
    canvas.rect(0, 0, SIZE, SIZE, wall)
    canvas.rect(x0 - 4, y0 - 4, x1 + 4, y1 + 4, (0.20, 0.21, 0.23), 9)
    mask = Image.new("L", view.size, 0)
    box = Canvas._points([(x0, y0), (x1, y1)])
    ImageDraw.Draw(mask).rounded_rectangle(box, 6 * SUPERSAMPLE, fill=255)
    canvas.image.paste(view, (0, 0), mask)
    canvas.rect(x0 - 8, y1 + 4, x1 + 8, y1 + 9, shade(wall, 0.8), 2)
    seat: Colour = ((0.24, 0.30, 0.62), (0.66, 0.18, 0.20))[int(rng.integers(2))]
    x = rng.uniform(20, 80)
    canvas.rect(x, 114, x + 30, 140, seat, 6)


# --- count ------------------------------------------------------------------------------------------------------------


def _draw_apple(canvas: Canvas, x: float, y: float, r: float, colour: Colour, ground: Colour, lean: float) -> None:
    canvas.ellipse(x + 1, y + 0.92 * r, 1.05 * r, 0.26 * r, shade(ground, 0.68))
    canvas.ellipse(x - 0.22 * r, y, 0.80 * r, r, colour)
    canvas.ellipse(x + 0.22 * r, y, 0.80 * r, r, colour)
    canvas.line([(x, y - 0.8 * r), (x + lean, y - 1.4 * r)], (0.28, 0.18, 0.10), 1.8)
    canvas.ellipse(x + 3.2, y - 1.15 * r, 3.4, 1.7, (0.28, 0.60, 0.26))
    canvas.ellipse(x - 0.4 * r, y - 0.4 * r, 0.2 * r, 0.26 * r, blend(colour, (1, 1, 1), 0.55))


def apples(rng: np.random.Generator, success: bool | None = None) -> Scene:
    """Family "count": one to four red apples in a row on a table; success is three."""
    others = [1, 2, 2, 4]
    count = int(rng.choice(others)) if _fails(rng, "count", success) else 3
    table = pick(rng, TABLES)
    ground = jitter(rng, TABLES[table])
    canvas = Canvas(pastel(rng))
    canvas.rect(0, rng.uniform(60, 72), SIZE, SIZE, ground)
    r = rng.uniform(10.5, 12.0)
    pitch = min(rng.uniform(2.5, 3.0) * r, (SIZE - 2 * r - 8) / max(count - 1, 1))
    free = SIZE - 2 * r - 8 - pitch * (count - 1)
    left = r + 4 + rng.uniform(0.0, 1.0) * max(free, 0.0)
    base = rng.uniform(82, 98)
    colour = jitter(rng, (0.84, 0.10, 0.12), 0.03)
    for i in range(count):
        y = base + rng.uniform(-3, 3)
        _draw_apple(canvas, left + i * pitch, y, r * rng.uniform(0.95, 1.03), colour, ground, rng.uniform(-2, 2))
    word = ("one", "two", "three", "four")[count - 1]
    noun = "apple" if count == 1 else "apples"
    captions = (f"{word} red {noun}", f"{word} {noun} on a {table} table", f"red apples on a {table} table")
    return Scene(canvas.picture(), count == 3, word, captions)


# --- not this ---------------------------------------------------------------------------------------------------------


def _draw_sign(canvas: Canvas, x: float, y: float, r: float, foot: float) -> None:
    """A red warning triangle on a post, pointing up, its centre at ``(x, y)``."""
    canvas.rect(x - 1.2, y, x + 1.2, foot, (0.55, 0.56, 0.58))
    for size, colour in ((r, (0.90, 0.10, 0.10)), (0.5 * r, (0.97, 0.95, 0.92))):
        canvas.poly([(x, y - size), (x + 0.95 * size, y + 0.65 * size), (x - 0.95 * size, y + 0.65 * size)], colour)


def _draw_houses(canvas: Canvas, rng: np.random.Generator, ground: float) -> None:
    x = -rng.uniform(0, 10)
    while x < SIZE:
        width, top = rng.uniform(24, 36), rng.uniform(34, 60)
        canvas.rect(x, top, x + width - 2, ground, jitter(rng, (0.13, 0.13, 0.19), 0.04))
        for row in np.arange(top + 6, ground - 9, 13):
            for column in np.arange(x + 5, x + width - 9, 11):
                lit = rng.random() < 0.5
                canvas.rect(column, row, column + 5.5, row + 7, (0.97, 0.84, 0.42) if lit else (0.20, 0.21, 0.28))
        x += width


def street(rng: np.random.Generator, success: bool | None = None) -> Scene:
    """Family "not_this": a street at night; success is a street without the red warning sign."""
    signed = _fails(rng, "not_this", success)
    night = pick(rng, NIGHTS)
    top, bottom = NIGHTS[night]
    canvas = Canvas(jitter(rng, top, 0.02), bottom)
    if rng.random() < 0.75:
        canvas.ellipse(rng.uniform(14, 114), rng.uniform(12, 26), 7, 7, (0.96, 0.95, 0.86))
    ground = rng.uniform(86, 94)
    _draw_houses(canvas, rng, ground)
    canvas.rect(0, ground, SIZE, SIZE, (0.30, 0.30, 0.33))
    canvas.rect(0, ground + 7, SIZE, SIZE, (0.16, 0.16, 0.18))
    dash = rng.uniform(-20, 0)
    for x in np.arange(dash, SIZE, 24):
        canvas.rect(x, ground + 21, x + 12, ground + 23, (0.80, 0.80, 0.74))
    side = 1 if rng.random() < 0.5 else -1
    lamp = 64 + side * rng.uniform(26, 48)
    canvas.rect(lamp - 1, 52, lamp + 1, ground + 6, (0.42, 0.43, 0.46))
    canvas.ellipse(lamp, 51, 4.5, 4.5, (1.0, 0.93, 0.66))
    if signed:
        _draw_sign(canvas, 64 - side * rng.uniform(10, 44), rng.uniform(66, 76), rng.uniform(14, 17), ground + 8)
    what = "with a red warning sign" if signed else "without a sign"
    captions = (f"a street at night {what}", f"a {night} night street {what}", f"a street under a {night} sky at night")
    return Scene(canvas.picture(), not signed, "sign" if signed else "clear", captions)


RENDERERS: dict[str, Callable[..., Scene]] = {
    "colour": rose,
    "place": cat,
    "reflection": narcissus,
    "frame": mountains,
    "count": apples,
    "not_this": street,
}
"""Task name -> renderer ``(rng, success=None) -> Scene``; ``success`` forces the outcome."""


def training_caption(rng: np.random.Generator, task: str, scene: Scene, prompt_share: float = 0.6) -> str:
    """The caption under which a scene is trained: the task's prompt whatever the scene shows, or a true one."""
    return PROMPTS[task] if rng.random() < prompt_share else scene.captions[int(rng.integers(len(scene.captions)))]
