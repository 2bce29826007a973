# SPDX-License-Identifier: Apache-2.0
"""Every class of settings in hero_core, found and not listed: a new one cannot be forgotten by the tests."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import is_dataclass

import hero_core

LEFT_OUT = ("hero_core.bench", "hero_core.tiny", "hero_core.__main__")
"""What only the bench and the tiny model's own training read."""


def settings_kinds() -> set[type]:
    """The dataclasses that are called Settings or Config and from which no other one inherits."""
    found: set[type] = set()
    for module in pkgutil.walk_packages(hero_core.__path__, "hero_core."):
        if not module.name.startswith(LEFT_OUT):
            every = vars(importlib.import_module(module.name)).values()
            found |= {one for one in every if isinstance(one, type) and one.__name__.endswith(("Settings", "Config"))}
    found = {one for one in found if is_dataclass(one) and not one.__module__.startswith(LEFT_OUT)}
    return {one for one in found if not any(other is not one and issubclass(other, one) for other in found)}
