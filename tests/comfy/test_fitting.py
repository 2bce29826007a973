# SPDX-License-Identifier: Apache-2.0
"""Memory that is known before work is spent: ``memory_checks.py`` measures, this file says what must be."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from tests.comfy.host import Checkout
from tests.memory import measure

QUICK = ("SD 1.5", "Flux.1 dev", "Qwen-Image")
Measured = dict[str, Any]


@pytest.fixture(scope="module", params=["quick", pytest.param("whole", marks=pytest.mark.long)])
def measured(
    newest: None, checkout: Checkout, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Measured:
    """A few models in every run, the others with `--long`."""
    return measure(checkout, request.param, tmp_path_factory.mktemp(f"memory-{checkout.version}"))


@pytest.fixture(scope="module")
def quick(measured: Measured) -> Measured:
    """What is the same for all models."""
    if "chosen" not in measured:
        pytest.skip("measured with the quick ones")
    return measured


def test_what_is_counted_without_numbers_is_what_lives_in_a_true_run(measured: Measured) -> None:
    """HiDream chooses its experts by numbers, and is taken at the host's estimate."""
    wrong = {}
    for name, shares in measured["miniature"].items():
        if name == "HiDream":
            assert "DynamicOutputShape" in shares["error"]
        elif "error" in shares or not all(0.9 < shares[way] < 1.05 for way in ("again", "kept")):
            wrong[name] = shares
        # A miniature keeps so little alive when it draws that the host's own copies of latents and texts weigh as much.
        elif not (0.8 if name in QUICK else 0.5) < shares["drawing"] < 1.05:
            wrong[name] = shares
    assert wrong == {}


def test_the_estimate_of_a_real_model_is_within_a_tenth_of_a_count_with_more_rows(measured: Measured) -> None:
    assert measured["real"]
    ways = {(name, way): one[way] for name, one in measured["real"].items() for way in ("drawing", "again", "kept")}
    assert {key: found for key, found in ways.items() if abs(found["share"] - 1) > 0.1} == {}
    assert {name: one for name, one in measured["real"].items() if not one["drawing"]["GB"] < one["again"]["GB"]} == {}
    assert {name: one for name, one in measured["real"].items() if not one["again"]["GB"] < one["kept"]["GB"]} == {}


def test_a_model_is_counted_in_seconds_and_once(measured: Measured) -> None:
    """Of the processor's time; a real one takes about 5 s, and a busy machine is given four times that."""
    for one in measured["real"].values():
        assert max(one[way]["seconds"] for way in ("drawing", "again", "kept")) < 20
        assert one["again_seconds"] < 0.1


def test_the_reckoned_peak_of_sd_15_is_what_the_docs_say(quick: Measured) -> None:
    found = quick["real"]["SD 1.5"]
    assert found["again"]["GB"] == pytest.approx(0.24, abs=0.02)
    assert found["kept"]["GB"] == pytest.approx(1.02, abs=0.05)


def test_the_model_that_was_counted_is_left_alone(quick: Measured) -> None:
    as_it_was = {"difference": 0, "hooks": 0, "hollow": 0, "forwards": 0, "same": True}
    assert {name: found for name, found in quick["left_alone"].items() if found != as_it_was} == {}


def test_rows_and_what_is_computed_again_follow_the_card(quick: Measured) -> None:
    """SD 1.5 by DDPO with guidance on cards with 2, 3, 4, 6, 12 and 24 GB free."""
    chosen = [(one["rows"], one["recompute"]) for one in quick["chosen"]]
    assert chosen == [(1, True), (2, True), (5, True), (8, True), (8, True), (8, False)]
    assert all(before["need"] <= after["need"] for before, after in pairwise(quick["chosen"]))


def test_the_choice_is_told_on_the_node(quick: Measured) -> None:
    said = [one["said"] for one in quick["chosen"]]
    assert said[1] == ["2 pictures at a time, since 8 would not fit: about 2.7 of 3.0 GB, by an estimate."]
    assert said[3] == ["8 pictures at a time: about 5.2 of 6.0 GB, by an estimate."]
    assert "of the checkpoint wait in main memory" in said[0][0]


def test_the_host_leaves_as_much_room_as_was_reckoned(quick: Measured) -> None:
    """It counts by pictures, so it is a picture's worth more at most; what drawing takes is another matter."""
    for one in quick["chosen"]:
        assert one["need"] <= one["loaded"] <= one["need"] + 1.2
        assert one["drawing"] is None


def test_on_a_cpu_nothing_is_chosen(quick: Measured) -> None:
    found = quick["unknown"]
    assert (found["on_cpu"], found["said"], found["recompute"], found["need"]) == (7, [], False, None)


def test_a_model_that_cannot_be_counted_is_taken_at_the_hosts_own_estimate(quick: Measured) -> None:
    """Three times what the host reckons for drawing, for each of the two prompts, and its blocks computed again."""
    assert quick["unknown"]["again"] == pytest.approx(6)
    assert quick["unknown"]["kept"] is None


def test_no_more_is_counted_than_could_fit(quick: Measured) -> None:
    found = quick["stops"]
    assert (found["none"], found["share"], found["less"]) == ([None, None], pytest.approx(1), None)
