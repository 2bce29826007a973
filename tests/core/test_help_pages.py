# SPDX-License-Identifier: Apache-2.0
"""The help pages say what the settings say, and every widget offers what its setting allows."""

from __future__ import annotations

import pytest
from kinds import settings_kinds

from hero_core.errors import HeroError
from hero_core.lora import LoRAConfig
from hero_core.rollout import SamplingSettings
from hero_core.settings import Setting, settings_of
from hero_core.update.common import OptimizerSettings
from hero_core.update.nft import NFTSettings
from tests.help_pages import DOCS, filled, row
from tests.widgets import NODES

WIDGETS = [(node, name, one) for node, known in NODES.items() for name, one in known.settings.items()]


@pytest.mark.parametrize("node", NODES)
def test_a_page_is_what_the_settings_say(node: str) -> None:
    page = (DOCS / f"{node}.md").read_text(encoding="utf-8")
    assert page == filled(page, NODES[node]), "python -m tests.help_pages writes it again"
    assert all(f"| `{name}` |" in page for name in NODES[node].inputs)


def test_a_row_shows_default_choices_and_words() -> None:
    setting = Setting("a", "a: one. best: another (a).", choices=("a", "best"))
    assert row("mode", setting) == "| `mode` | a | `a`: one. `best`: another (a). |"
    assert row("lr", Setting(3e-4, "Rate.")) == "| `lr` | 3e-4 | Rate. |"
    assert row("clip", Setting(0.01, "Clip.")) == "| `clip` | 0.01 | Clip. |"


@pytest.mark.parametrize(("node", "name", "setting"), WIDGETS, ids=[f"{node}-{name}" for node, name, _ in WIDGETS])
def test_both_ends_of_a_widget_are_allowed(node: str, name: str, setting: Setting) -> None:
    for value in (setting.default, *(() if isinstance(setting.default, str) else setting.offers)):
        setting.check(name, value)


@pytest.mark.parametrize("kind", sorted(settings_kinds(), key=lambda kind: kind.__name__))
def test_every_setting_says_what_it_does(kind: type) -> None:
    known = settings_of(kind)
    assert set(known) | {"lora"} >= {field for field in kind.__dataclass_fields__}  # type: ignore[attr-defined]
    for name, setting in known.items():
        assert setting.help.endswith("."), name
        assert setting.default == getattr(kind(), name), "a subclass may have another default, and nothing else"


@pytest.mark.parametrize(
    ("setting", "range"),
    [
        ({"least": 1}, "1 or more"), ({"above": 0}, "above 0"), ({"least": 0, "most": 1}, "between 0 and 1"),
        ({"above": 0, "most": 1}, "above 0 and at most 1"), ({"least": 0, "below": 1}, "0 or more and below 1"),
        ({"most": 1}, "at most 1"), ({}, "a finite number"),
    ],
)  # fmt: skip
def test_ranges_in_words(setting: dict[str, float], range: str) -> None:
    assert Setting(0.5, "", **setting).range == range


def test_a_refusal_names_the_value_the_range_and_a_value_that_works() -> None:
    for make, sentence in (
        (lambda: LoRAConfig(rank=0), "rank is 0; it is 1 or more (4 by default)."),
        (
            lambda: SamplingSettings(eta=0),
            "eta is 0; it is above 0 and at most 1: without noise nothing is learned (1 by default).",
        ),
        (lambda: NFTSettings(source="dice"), "source is 'dice'; it is one of marks, embedding, both."),  # type: ignore[arg-type]
    ):
        with pytest.raises(HeroError) as refused:
            make()
        assert str(refused.value) == sentence


def test_another_default_is_all_that_a_subclass_changes() -> None:
    mine, theirs = settings_of(NFTSettings)["lr"], settings_of(OptimizerSettings)["lr"]
    assert (mine.default, theirs.default) == (3e-3, 3e-4)
    assert (mine.help, mine.above, mine.offers) == (theirs.help, theirs.above, theirs.offers)
