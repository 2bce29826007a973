# SPDX-License-Identifier: Apache-2.0
"""The pictures that nodes show to people."""

from __future__ import annotations

import torch

from hero_core import report
from hero_core.feedback import Feedback
from hero_core.preference import RewardResult


def colours(image) -> set:  # type: ignore[no-untyped-def]
    return {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}


def result(skip: str | None = None) -> RewardResult:
    feedback = Feedback(6, {0: "good", 1: "bad", 2: "good"}, 2)
    rewards = torch.tensor([0.9, 0.1, 1.0, 0.5, 0.4, 0.3])
    return RewardResult(rewards, feedback, None, torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), skip)


def test_the_best_is_told_apart_from_the_other_goods() -> None:
    assert report.kinds(result().feedback) == ["good", "bad", "best", "unrated", "unrated", "unrated"]


def test_a_kept_best_is_no_picture_of_this_round() -> None:
    assert report.kinds(Feedback(2, {0: "good"}, "keep")) == ["good", "unrated"]


def test_the_map_shows_every_kind_of_mark_in_its_colour() -> None:
    assert set(report.COLOURS.values()) <= colours(report.embedding_map(result()))


def test_a_round_that_teaches_nothing_says_why_instead_of_rewards() -> None:
    shown, why = report.embedding_map(result()), report.embedding_map(result("No picture of this round is good."))
    assert shown.tobytes() != why.tobytes()


def test_curves_take_rounds_without_an_update_and_no_round_at_all() -> None:
    history = [
        {"round": 1, "marks": 4, "good": 1.0, "bad": 3.0, "skip": "No picture of this round is good."},
        {"round": 2, "marks": 4, "good": 2.0, "bad": 2.0, "kl_to_base": 1e-4, "heldout_auc": 0.7, "ratio_error": 0.0,
         "optimizer_steps": 8.0, "clip_fraction": 0.2, "skip": None},
    ]  # fmt: skip
    pictures = [report.curves("a", history[:rounds]).tobytes() for rounds in (0, 1, 2)]
    assert len(set(pictures)) == 3


def test_the_last_line_names_the_skip_or_the_ratio() -> None:
    assert "No picture" in report._last_words([{"round": 3, "skip": "No picture."}])
    done = {"round": 3, "skip": None, "ratio_error": 2e-8, "optimizer_steps": 8.0, "clip_fraction": 0.25}
    assert "2.0e-08" in report._last_words([done])
    assert "25%" in report._last_words([done])
    forward = {"round": 3, "skip": None, "optimizer_steps": 80.0}
    assert report._last_words([forward]) == "Round 3: 80 optimiser steps.", "which has no ratio"
    assert "not updated" in report._last_words([{"round": 3, "skip": None}])


def test_a_contact_sheet_frames_each_picture_by_its_mark() -> None:
    pictures = torch.full((6, 16, 16, 3), 0.5)
    sheet = report.contact_sheet(pictures, result().feedback, columns=3, side=16)
    assert sheet.size == (72, 48)
    assert {report.GOOD, report.BAD, report.BEST} <= colours(sheet)
    assert colours(report.contact_sheet(pictures)) == {report.PAPER, (128, 128, 128)}


def test_a_batch_is_what_image_sockets_carry() -> None:
    batch = report.to_batch(report.curves("a", []))
    assert batch.shape == (1, 640, 720, 3)
    assert batch.dtype == torch.float32
    assert 0 <= float(batch.min()) < float(batch.max()) <= 1


def test_a_critic_is_shown_with_its_values_and_whether_it_was_used() -> None:
    entry = {"round": 1, "marks": 4, "good": 2.0, "bad": 2.0, "optimizer_steps": 8.0, "clip_fraction": 0.1,
             "ratio_error": 0.0, "kl_to_base": 1e-5, "critic_r2": 0.42, "advantage": "gae",
             "kl_by_step": [[3, 0.1], [9, 0.2]],
             "values": {"good": {"picture": 0, "steps": [2, 9, 20], "values": [0.5, 0.7, 0.9]},
                        "bad": {"picture": 3, "steps": [4, 7, 20], "values": [0.5, 0.4, 0.2]}}}  # fmt: skip
    image = report.curves("a", [entry])
    assert image.height == 880
    assert {report.COLOURS["good"], report.COLOURS["bad"]} <= colours(image)
    assert "explained 42% of the rewards and told each step what it was worth (gae)" in report._last_words([entry])
    followed = {**entry, "advantage": "gradient"}
    assert "explained 42% of the rewards and told each step which way its worth rises" in report._last_words([followed])
    fallen = {**entry, "critic_r2": -0.3, "advantage": "mean"}
    assert "explained 0% of the rewards, too little: the round learned as DDPO does" in report._last_words([fallen])
    assert report.curves("a", [{**entry, "values": {}}]).height == 880
