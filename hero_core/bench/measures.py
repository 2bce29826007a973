# SPDX-License-Identifier: Apache-2.0
"""What is measured of a run's pictures, and of the run itself."""

from __future__ import annotations

import platform
import sys

import numpy as np
import torch
from torch import Tensor

from ..tiny.judges import free_attributes
from ..tiny.tasks import TASKS


def free_entropy(task: str, pictures: Tensor) -> float | None:
    """Mean entropy in bits of the attributes that the prompt leaves free (position, hues, ...), over good pictures.

    Miller and Madow's correction makes small and large sets comparable. None for a task without readers of its
    attributes, and for fewer than 2 good pictures.
    """
    if task not in TASKS:
        return None
    good = pictures[torch.from_numpy(TASKS[task].judge(pictures).good)]
    if len(good) < 2:
        return None
    return float(np.mean([_entropy(bins) for bins in free_attributes(task, good).values()]))


def _entropy(bins: np.ndarray) -> float:
    counts = np.unique(bins, return_counts=True)[1]
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum() + (len(counts) - 1) / (2 * np.log(2) * counts.sum()))


def diversity(pictures: Tensor) -> float:
    """Mean pairwise distance of pictures ``(n, 3, H, W)``: root mean square over pixels, 0..1."""
    flat = pictures.flatten(1)
    return float(torch.pdist(flat).mean()) / flat.shape[1] ** 0.5


def peak_memory() -> int:
    """The most bytes that this process has held so far; on a GPU, of its memory; 0 where nobody tells."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    return {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()}
