# SPDX-License-Identifier: Apache-2.0
"""The store on disk: sessions, their rounds, a person's marks, and the state between two rounds.

::

    <root>/.lock                          held by the one process that writes
    <root>/<session>/session.json         format, settings, pointer to the last saved round, history
    <root>/<session>/rounds/0007/         round.json, rollout.safetensors, pictures/, mode.json, metrics.json,
                                          labels.json and labels.copy.json, which hold the same
    <root>/<session>/state/0007/          LoRA, embedding and mixture with their optimisers, the best picture, and
                                          session.json as it was when the round was saved
    <lora_dir>/<session>_r0007.safetensors

Moving ``saved_round`` in session.json is the only transaction. The states of the last two rounds are kept: where the
last is damaged the pointer moves back, and the round is learned again from its rollout and marks to the same bits. What
is damaged gets a name ending in ``.damaged``; the log and the history say what was done.
"""

from .marks import Marks
from .pictures import Size
from .round import Mode, Round
from .session import Session, SessionSettings
from .state import Best, State
from .store import Store, check_name

__all__ = ["Best", "Marks", "Mode", "Round", "Session", "SessionSettings", "Size", "State", "Store", "check_name"]
