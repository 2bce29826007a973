# SPDX-License-Identifier: Apache-2.0
"""What the scenes are drawn with: a supersampled picture, colours and their arithmetic, and a few random choices."""

from __future__ import annotations

import colorsys
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128
"""Height and width of every picture, in pixels."""

SUPERSAMPLE = 2
Colour = tuple[float, float, float]

ROSES: dict[str, Colour] = {
    "blue": (0.14, 0.26, 0.88),
    "red": (0.84, 0.10, 0.14),
    "pink": (0.95, 0.50, 0.66),
    "white": (0.97, 0.96, 0.93),
    "yellow": (0.96, 0.80, 0.14),
}
VASES: dict[str, Colour] = {
    "green": (0.20, 0.56, 0.36),
    "brown": (0.50, 0.30, 0.16),
    "grey": (0.56, 0.58, 0.60),
    "purple": (0.52, 0.26, 0.60),
    "orange": (0.92, 0.52, 0.16),
}
TABLES: dict[str, Colour] = {
    "brown": (0.52, 0.36, 0.22),
    "grey": (0.40, 0.42, 0.45),
    "teal": (0.18, 0.50, 0.50),
    "cream": (0.90, 0.85, 0.70),
}
FLOORS: dict[str, Colour] = {
    "grey": (0.52, 0.53, 0.56),
    "green": (0.36, 0.55, 0.36),
    "blue": (0.34, 0.44, 0.66),
    "purple": (0.52, 0.38, 0.58),
}
SKIES: dict[str, tuple[Colour, Colour]] = {
    "day": ((0.32, 0.60, 0.92), (0.76, 0.88, 0.97)),
    "sunset": ((0.56, 0.36, 0.66), (0.98, 0.66, 0.40)),
    "mist": ((0.66, 0.72, 0.76), (0.88, 0.90, 0.90)),
    "dawn": ((0.96, 0.66, 0.72), (0.99, 0.90, 0.76)),
}
CABINS: dict[str, Colour] = {
    "cream": (0.90, 0.85, 0.74),
    "grey": (0.62, 0.64, 0.67),
    "brown": (0.44, 0.30, 0.20),
    "green": (0.24, 0.40, 0.32),
}
NIGHTS: dict[str, tuple[Colour, Colour]] = {
    "navy": ((0.03, 0.05, 0.20), (0.12, 0.20, 0.44)),
    "purple": ((0.13, 0.05, 0.24), (0.36, 0.18, 0.46)),
    "teal": ((0.02, 0.13, 0.17), (0.08, 0.34, 0.38)),
}
WALL_HUES = 6
"""Number of hue bins of the pastel walls."""


@lru_cache(maxsize=1)
def _ramp() -> np.ndarray:
    return np.linspace(0.0, 1.0, SIZE * SUPERSAMPLE, dtype=np.float32)[:, None, None]


class Canvas:
    """A supersampled picture to draw on, in pixels of the final picture."""

    def __init__(self, top: Colour, bottom: Colour | None = None) -> None:
        bottom = top if bottom is None else bottom
        side = SIZE * SUPERSAMPLE
        column = np.asarray(top, np.float32) * (1 - _ramp()) + np.asarray(bottom, np.float32) * _ramp()
        pixels = np.broadcast_to((column * 255).astype(np.uint8), (side, side, 3))
        self.image = Image.fromarray(np.ascontiguousarray(pixels))
        self.draw = ImageDraw.Draw(self.image)

    @staticmethod
    def _points(xy: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x * SUPERSAMPLE, y * SUPERSAMPLE) for x, y in xy]

    def rect(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, radius: float = 0.0) -> None:
        box = self._points([(x0, y0), (x1, y1)])
        self.draw.rounded_rectangle(box, radius * SUPERSAMPLE, fill=to_bytes(fill))

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        self.draw.ellipse(self._points([(x - rx, y - ry), (x + rx, y + ry)]), fill=to_bytes(fill))

    def poly(self, xy: list[tuple[float, float]], fill: Colour) -> None:
        self.draw.polygon(self._points(xy), fill=to_bytes(fill))

    def line(self, xy: list[tuple[float, float]], fill: Colour, width: float) -> None:
        self.draw.line(self._points(xy), fill=to_bytes(fill), width=round(width * SUPERSAMPLE), joint="curve")

    def arc(self, x: float, y: float, r: float, start: float, end: float, fill: Colour, width: float) -> None:
        box = self._points([(x - r, y - r), (x + r, y + r)])
        self.draw.arc(box, start, end, fill=to_bytes(fill), width=round(width * SUPERSAMPLE))

    def picture(self) -> np.ndarray:
        """The antialiased picture, ``(128, 128, 3)`` uint8."""
        return np.asarray(self.image.reduce(SUPERSAMPLE))


def to_bytes(colour: Colour) -> tuple[int, int, int]:
    return tuple(min(255, max(0, round(255 * c))) for c in colour)  # type: ignore[return-value]


def shade(colour: Colour, factor: float) -> Colour:
    return tuple(min(1.0, c * factor) for c in colour)  # type: ignore[return-value]


def blend(a: Colour, b: Colour, share_of_b: float) -> Colour:
    return tuple((1 - share_of_b) * x + share_of_b * y for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def jitter(rng: np.random.Generator, colour: Colour, amount: float = 0.03) -> Colour:
    return tuple(float(np.clip(c + rng.uniform(-amount, amount), 0, 1)) for c in colour)  # type: ignore[return-value]


def pick(rng: np.random.Generator, table: dict, weights: list[float] | None = None) -> str:
    return str(rng.choice(list(table), p=weights))


def pastel(rng: np.random.Generator) -> Colour:
    hue = (int(rng.integers(WALL_HUES)) + rng.uniform(-0.18, 0.18)) / WALL_HUES
    return colorsys.hsv_to_rgb(hue % 1.0, rng.uniform(0.14, 0.22), rng.uniform(0.82, 0.95))
