# SPDX-License-Identifier: Apache-2.0
"""How many pictures go through a model at a time, for given peaks and a given memory, and what is said of it."""

from __future__ import annotations

import math

import pytest

from hero_core.memory import GB, MARGIN, SPARE, Choice, Peak, Room, choose, sentence

AGAIN, KEPT = Peak(0.1 * GB, 1 * GB), Peak(0.1 * GB, 6 * GB)


def reckon(recompute: bool, enough: float) -> Peak | None:
    peak = AGAIN if recompute else KEPT
    return peak if peak.row <= enough else None


def chosen(free: float, most: int = 8, weights: float = 4, **how: bool) -> tuple[int, bool, bool]:
    choice = choose(most, Room(int(free * GB), int(weights * GB)), reckon, **how)
    return choice.rows, choice.recompute, choice.fits


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (100, (8, False, True)),  # 4 + (0.1 + 48) * 1.15 + 0.25 = 59.6
        (59.5, (8, True, True)),
        (14, (8, True, True)),  # 4 + (0.1 + 8) * 1.15 + 0.25 = 13.6
        (13.5, (7, True, True)),
        (8, (3, True, True)),  # half of it, for weights may wait outside: (0.1 + 3) * 1.15 + 0.25 = 3.8
        (3.1, (1, True, True)),  # half of it is 1.55, and one row takes 1.52
        (3.0, (1, True, False)),
    ],
)
def test_the_most_rows_that_fit_and_the_faster_way_where_there_is_room(
    free: float, expected: tuple[int, bool, bool]
) -> None:
    assert chosen(free) == expected


def test_rows_and_ways_follow_the_memory_and_never_turn_back() -> None:
    found = [chosen(free / 4) for free in range(4, 400)]
    assert found == sorted(found, key=lambda one: (one[0], not one[1], one[2]))
    assert {rows for rows, _, _ in found} == set(range(1, 9))


def test_a_choice_fits_with_what_is_not_counted() -> None:
    """Exactly so much is enough, and a byte less is not."""
    need = (0.1 * GB + 8 * GB) * MARGIN + SPARE
    assert AGAIN.of(8) == need
    assert choose(8, Room(math.ceil(need) + 4 * GB, 4 * GB), reckon).rows == 8
    assert choose(8, Room(math.floor(need) - 1 + 4 * GB, 4 * GB), reckon).rows == 7


def test_who_names_a_number_gets_it() -> None:
    assert chosen(13.5, exactly=True) == (8, True, False)
    assert chosen(100, 2, exactly=True) == (2, False, True)


def test_drawing_computes_nothing_again() -> None:
    asked = []

    def drawing(recompute: bool, enough: float) -> Peak:
        asked.append(recompute)
        return AGAIN

    assert choose(8, Room(14 * GB, 4 * GB), drawing, learns=False).recompute is False
    assert asked == [False]


def test_what_nobody_knows_is_left_as_it_was_asked_for() -> None:
    choice = choose(8, Room(GB, GB), lambda *_: None)
    assert (choice.rows, choice.recompute, choice.need) == (8, True, None)
    assert choice.fits
    assert sentence(choice) is None


def told(free: float, most: int = 8, weights: float = 4, side: int | None = 1024, **how: bool) -> str | None:
    return sentence(choose(most, Room(int(free * GB), int(weights * GB)), reckon, **how), side)


def test_the_person_hears_what_was_chosen_and_why() -> None:
    assert told(14) == "8 pictures at a time: about 13.6 of 14.0 GB, by an estimate."
    assert told(12) == "6 pictures at a time, since 8 would not fit: about 11.3 of 12.0 GB, by an estimate."
    assert told(5, 1, 8) == (
        "1 picture at a time: about 5.0 of 5.0 GB, by an estimate. About 4.5 GB of the checkpoint wait in main memory, "
        "which is slower."
    )


def test_the_person_hears_before_any_work_what_would_fit() -> None:
    assert told(2, 1) == (
        "One picture takes about 1.5 GB beside the checkpoint, by an estimate, and there are about 1.0 GB for it: it "
        "may run out of memory or be very slow. A session with pictures of about 768 x 768 would fit."
    )
    assert told(4, exactly=True) == (
        "8 pictures at a time take about 9.6 GB beside the checkpoint, by an estimate, and there are about 2.0 GB for "
        "it: it may run out of memory or be very slow. Set micro_batch to 0, or lower it."
    )
    assert "would fit" not in str(told(0.01, 1)), "there is no such small picture"
    assert sentence(Choice(8, 8, True)) is None
