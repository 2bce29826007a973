# SPDX-License-Identifier: Apache-2.0
"""What OMP_WAIT_POLICY=PASSIVE gains and costs: passes of the tiny UNet a second, alone and beside busy programs.

    python -m tests.waiting --turns 15

Two programs that differ in the policy alone take turns of half a second; a ratio is the median over the turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from contextlib import ExitStack
from statistics import median

WORK = """
import sys, time, torch
from hero_core.tiny.model import load_tiny
model = load_tiny()
text = model.encode_prompt("photo of one blue rose in a vase")
for line in sys.stdin:
    x, passes, begun = torch.randn(int(line), 4, 16, 16), 0, time.monotonic()
    while time.monotonic() < begun + 0.5:
        model.denoise(x, 1.0, text)
        passes += 1
    print(passes / (time.monotonic() - begun), flush=True)
"""
BUSY = "while True: pass"


def program(stack: ExitStack, code: str, policy: str | None = None) -> subprocess.Popen:
    """A Python program that ends with the stack, under a wait policy (none: torch's own), with all cores."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    environment |= {"OMP_WAIT_POLICY": policy} if policy else {}
    command = [sys.executable, "-c", code]
    child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stack.callback(child.kill)
    return child


def turn(child: subprocess.Popen, pictures: int) -> float:
    """Passes a second over one turn."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(f"{pictures}\n")
    child.stdin.flush()
    return float(child.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=15)
    turns = parser.parse_args().turns
    with ExitStack() as stack:
        ours, unset = program(stack, WORK, "PASSIVE"), program(stack, WORK)
        for busy in range(3):
            for pictures in (1, 8):
                turn(ours, pictures), turn(unset, pictures)
                pairs = [(turn(ours, pictures), turn(unset, pictures)) for _ in range(turns)]
                ratio, columns = median(a / b for a, b in pairs), list(zip(*pairs, strict=True))
                (passive, other), (most, others_most) = map(median, columns), map(max, columns)
                shown = f"{passive:.1f} and {other:.1f} a second ({most:.1f} and {others_most:.1f} at best)"
                print(f"{busy} busy, {pictures} pictures: {shown}, {ratio:.2f} times", flush=True)
            program(stack, BUSY)


if __name__ == "__main__":
    main()
