# SPDX-License-Identifier: Apache-2.0
"""The tables of settings in ``web/docs``: ``python -m tests.help_pages`` writes them from the settings classes.

Of each page's table ``## Inputs`` this writes the rows of the settings, in the widgets' order, and leaves the others,
which say what is wired in and what no class of settings knows.
"""

from __future__ import annotations

import re
from pathlib import Path

from hero_core.settings import Setting
from tests.widgets import NODES, Node

DOCS = Path(__file__).parents[1] / "web" / "docs"
HEAD = ["| Input | Default | What it does |", "| --- | --- | --- |"]
FOLDED = '| *advanced* | | *Shown by the node\'s "Show advanced inputs", where ComfyUI has that:* |'


def row(name: str, setting: Setting) -> str:
    """One line of a table."""
    return f"| `{name}` | {shown(setting.default)} | {marked(setting)} |"


def shown(value: object) -> str:
    """A default as people write it: 3e-4, and not 0.0003."""
    if not isinstance(value, float):
        return str(value)
    if value and abs(value) < 0.01:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:g}"


def marked(setting: Setting) -> str:
    """The help with its choices as code where it explains them one by one."""
    text = setting.help
    for choice in setting.choices:
        text = re.sub(rf"(^|(?<=[ .(])){choice}(?=:)", f"`{choice}`", text)
    return text


def table(node: Node, old: list[str]) -> list[str]:
    """The lines of a page's table of inputs, from its old ones."""
    words = {match[1]: match[2] for line in old if (match := re.match(r"\| `(\w+)` \|(?:[^|]*\|)? (.+) \|$", line))}
    known = {name: row(name, setting) for name, setting in node.settings.items()}
    lines = {name: known.get(name) or f"| `{name}` | {DEFAULTS.get(name, '')} | {words.get(name, '')} |"
             for name in node.inputs}  # fmt: skip
    folded = [FOLDED] if node.advanced else []
    first = [*node.sockets, *node.optional, *node.widgets]
    return [*HEAD, *(lines[name] for name in first), *folded, *(lines[name] for name in (*node.advanced, *node.later))]


DEFAULTS = {"name": "my_session", "mode": "wait", "kind": "unet"}
"""Defaults of the widgets that are a matter of the node."""


def filled(page: str, node: Node) -> str:
    """The page with its table of inputs written again; a node without inputs has none."""
    if not node.inputs:
        return page
    before, rest = page.split("## Inputs\n\n", 1)
    lines, after = rest.split("\n\n", 1)
    return f"{before}## Inputs\n\n" + "\n".join(table(node, lines.splitlines())) + f"\n\n{after}"


def main() -> None:
    """Write every page."""
    for name, node in NODES.items():
        path = DOCS / f"{name}.md"
        path.write_text(filled(path.read_text(encoding="utf-8"), node), encoding="utf-8")


if __name__ == "__main__":
    main()
