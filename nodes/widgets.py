# SPDX-License-Identifier: Apache-2.0
"""Widgets made from settings, whose defaults, ranges and words stand beside the field and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from inspect import signature
from typing import Any

from comfy_api.latest import io

from ..hero_core.settings import Setting, settings_of

FINE = 0.01
"""Numbers that are turned in smaller steps are not rounded: the browser would make 0 of a learning rate."""


def advanced() -> dict[str, bool]:
    """The option of a widget that is shown to those who ask for more, where this ComfyUI knows it."""
    return {"advanced": True} if "advanced" in signature(io.Int.Input.__init__).parameters else {}


def widgets(kind: type, *names: str, more: Iterable[str] = (), **choices: Iterable[str]) -> list:
    """Widgets for these settings of a settings class, then for ``more`` of them as advanced ones.

    ``choices``: what only the host knows, by the setting's name.
    """
    known = settings_of(kind)
    known |= {name: replace(known[name], choices=tuple(options)) for name, options in choices.items()}
    return [
        *(widget(name, known[name]) for name in names),
        *(widget(name, known[name], **advanced()) for name in more),
    ]


def widget(name: str, setting: Setting, **options: Any) -> Any:
    """The widget of one setting; ``options`` go to the host as they are."""
    options = {"default": setting.default, "tooltip": setting.help, **options}
    if setting.choices:
        return io.Combo.Input(name, options=list(setting.choices), **options)
    if isinstance(setting.default, str):
        return io.String.Input(name, **options)
    low, high = setting.offers
    if isinstance(setting.default, int):
        return io.Int.Input(name, min=int(low), max=int(high), **options)
    step = setting.step or FINE
    unrounded = {"round": False} if step < FINE else {}
    return io.Float.Input(name, min=Least(low), max=float(high), step=step, **unrounded, **options)


class Least(float):
    """A widget's least value, which NaN lies below.

    Scripts may queue NaN. ComfyUI refuses where ``value < least``, which holds of no NaN; a subclass is asked first.
    """

    def __gt__(self, value: float) -> bool:
        return not value >= float(self)
