# SPDX-License-Identifier: Apache-2.0
"""The rules of marks."""

import pytest

from hero_core.errors import HeroError
from hero_core.feedback import Feedback, problems


def test_the_best_is_good() -> None:
    feedback = Feedback(4, {1: "bad"}, best=2)
    assert feedback.good == [2]
    assert feedback.bad == [1]


def test_marks_survive_json() -> None:
    feedback = Feedback(12, {0: "good", 10: "bad", 2: "bad"}, best=0)
    assert feedback.to_json() == {"labels": {"0": "good", "2": "bad", "10": "bad"}, "best": 0}
    assert Feedback.from_json(feedback.to_json(), 12) == feedback


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"labels": {"4": "good"}}, "no picture 4"),
        ({"labels": {"-1": "good"}}, "'-1' is no picture number"),
        ({"labels": {"0": "great"}}, "'great'"),
        ({"labels": []}, "labels is list"),
        ({"best": 4}, "no picture 4"),
        ({"best": True}, "best is True"),
        ({"best": "old"}, "best is 'old'"),
        ({"best": 1.5}, "best is 1.5"),
        ({"labels": {"1": "bad"}, "best": 1}, "marked bad and best"),
    ],
)
def test_bad_marks_are_refused_with_the_value(data: dict, words: str) -> None:
    with pytest.raises(HeroError, match=words):
        Feedback.from_json(data, 4)


@pytest.mark.parametrize(
    ("labels", "best", "old", "expected"),
    [
        ({}, None, False, ["Nothing is rated yet"]),
        ({0: "bad"}, None, False, []),
        ({0: "good"}, None, False, ["Pick the best of the good pictures."]),
        ({0: "good"}, None, True, ["Pick the best of the good pictures, or keep the old best."]),
        ({0: "good"}, "keep", True, []),
        ({0: "good"}, "keep", False, ["There is no old best to keep"]),
        ({0: "good"}, 0, False, []),
    ],
)
def test_what_may_be_submitted(labels: dict, best: object, old: bool, expected: list[str]) -> None:
    found = problems(Feedback(4, labels, best), old)
    assert len(found) == len(expected)
    assert all(sentence.startswith(start) for sentence, start in zip(found, expected, strict=True))
