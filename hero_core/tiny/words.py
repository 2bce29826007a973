# SPDX-License-Identifier: Apache-2.0
"""The words of the tiny model: the prompts of its tasks, and all that its text encoder knows."""

from __future__ import annotations

PROMPTS = {
    "colour": "photo of one blue rose in a vase",
    "place": "a black cat sitting inside a cardboard box",
    "reflection": "narcissus by a quiet spring and its reflection in the water",
    "frame": "beautiful mountains viewed from a train window",
    "count": "three apples on a table",
    "not_this": "a quiet street at night",
}
"""Task name -> the prompt of that task, after the tasks of the HERO paper."""

VOCABULARY = tuple(
    """
    a an and another apple apples at beautiful beside black blue box brown by cardboard cat cream dawn day floor
    flower four from green grey in inside its mist mountains narcissus navy night of on one open orange photo pink
    plain purple quiet red reflection rose sign sitting sky spring street sunset table teal the three top train two
    under vase viewed warning water white window with without yellow
    """.split()
)
"""Every word that a caption of `scenes` can hold, in the order of the embedding's rows in the weights: it is fixed."""
