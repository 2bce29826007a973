# SPDX-License-Identifier: Apache-2.0
"""Settings that know their default, their range and what they do, written once, beside the field.

What refuses a value, the widgets of the nodes and the tables of the help pages are all made from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

from .errors import HeroError

KEY = "setting"
"""Under this key a field's metadata holds its :class:`Setting`."""


@dataclass(frozen=True)
class Setting:
    """What is known of one setting beside its default.

    ``least`` and ``most`` belong to the range, ``above`` and ``below`` do not. ``low``, ``high`` and ``step`` are what
    a widget offers: no more than makes sense to somebody who turns it, where a script may go further. ``why``: words
    for whoever chose a value out of range.
    """

    default: Any
    help: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    why: str = ""
    low: float | None = None
    high: float | None = None
    step: float | None = None

    @property
    def offers(self) -> tuple[float, float]:
        """The least and the greatest number of a widget."""
        low = self.least if self.low is None else self.low
        high = self.most if self.high is None else self.high
        if low is None or high is None:
            raise TypeError(f"A widget needs both ends: {self}")
        return low, high

    @property
    def range(self) -> str:
        """The numbers that make sense, in words."""
        least, most, above, below = (None if end is None else f"{end:g}" for end in self._ends)
        if least and most:
            return f"between {least} and {most}"
        low = f"{least} or more" if least else f"above {above}" if above else ""
        high = f"at most {most}" if most else f"below {below}" if below else ""
        return " and ".join(part for part in (low, high) if part) or "a finite number"

    @property
    def _ends(self) -> tuple[float | None, ...]:
        return self.least, self.most, self.above, self.below

    def fits(self, value: Any) -> bool:
        """Whether ``value`` is one of the choices, or a number in the range."""
        if self.choices:
            return value in self.choices
        if isinstance(self.default, bool | str):
            return True
        least, most, above, below = self._ends
        return (
            math.isfinite(value)
            and (least is None or value >= least) and (above is None or value > above)
            and (most is None or value <= most) and (below is None or value < below)
        )  # fmt: skip

    def check(self, name: str, value: Any) -> None:
        """Raise :class:`HeroError` where ``value`` makes no sense: its name, the value and what it may be."""
        if self.fits(value):
            return
        if self.choices:
            raise HeroError(f"{name} is {value!r}; it is one of {', '.join(self.choices)}.")
        raise HeroError(f"{name} is {value}; it is {self.range}{self.why} ({self.default:g} by default).")


def setting(default: Any, help: str, **known: Any) -> Any:
    """A field of a settings class; ``known`` as in :class:`Setting`."""
    return field(default=default, metadata={KEY: Setting(default, help, **known)})


def like(kind: type, name: str, default: Any) -> Any:
    """The field ``name`` of ``kind`` with another default, for a class below it."""
    return field(default=default, metadata={KEY: replace(settings_of(kind)[name], default=default)})


def settings_of(kind: type) -> dict[str, Setting]:
    """The settings of a settings class by name, in order."""
    return {one.name: one.metadata[KEY] for one in fields(kind) if KEY in one.metadata}


def check(settings: object) -> None:
    """Raise :class:`HeroError` where one of the settings makes no sense."""
    for name, one in settings_of(type(settings)).items():
        one.check(name, getattr(settings, name))


def differences(kept: object, asked: object) -> Iterator[str]:
    """``cfg 5, not 7`` for each field in which two settings objects of one class differ."""
    for name in settings_of(type(kept)):
        mine, other = getattr(kept, name), getattr(asked, name)
        if mine != other:
            yield f"{name} {_shown(mine)}, not {_shown(other)}"


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
