# SPDX-License-Identifier: Apache-2.0
"""A session that the first version wrote is opened, and goes on as that version would have gone on."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from hero_core.feedback import Feedback
from hero_core.loop import feedback_of, next_mixture, sample_round, save_round, update_lora
from hero_core.mixture import MixtureSettings
from hero_core.preference import reward_of_marks
from hero_core.rollout import SamplingSettings
from hero_core.store import SessionSettings, Store
from hero_core.tiny.model import load_tiny
from hero_core.tiny.policy import TinyPolicy
from hero_core.update.nft import NFTSettings

ARCHIVE = Path(__file__).with_name("session_of_0_1_0.zip")
"""Two rounds of four pictures of the tiny model, the first saved, the second marked and submitted; and the LoRA that
the version that wrote them made of the second."""
SAMPLING = SamplingSettings(steps=12, cfg=5.0, micro_batch=2, scored_steps=2)


def test_a_session_of_the_first_version_goes_on_where_it_stopped(tmp_path: Path) -> None:
    zipfile.ZipFile(ARCHIVE).extractall(tmp_path)
    session = Store(tmp_path / "hero", tmp_path / "loras").open("old", SessionSettings(seed=7))
    policy = TinyPolicy(load_tiny(), "photo of one blue rose in a vase")
    assert (session.saved_round, session.history[0]["good"]) == (1, 2)
    rollout = sample_round(session, policy, 4, SAMPLING)
    assert torch.equal(rollout.z_0, session.round(2).rollout().z_0), "it is not drawn again"
    feedback = feedback_of(session, rollout)
    assert feedback == Feedback(4, {0: "good", 1: "good", 2: "bad"}, 0)
    assert feedback is not None
    result = update_lora(session, policy, rollout, reward_of_marks(rollout, feedback), NFTSettings(lr=1e-2, steps=6))
    saved = save_round(session, None, result, next_mixture(session, rollout, feedback, MixtureSettings()))
    ours, theirs = load_file(saved.lora_path), load_file(tmp_path / "after" / "old_r0002.safetensors")
    before = load_file(tmp_path / "loras" / "old_r0001.safetensors")
    assert ours.keys() == theirs.keys()
    # To the bit on the machine that wrote it; another machine's kernels round otherwise.
    moved, should = (torch.cat([(one[key] - before[key]).flatten() for key in sorted(one)]) for one in (ours, theirs))
    assert float(should.abs().max()) > 0.01
    assert float(torch.cosine_similarity(moved, should, dim=0)) > 0.99
