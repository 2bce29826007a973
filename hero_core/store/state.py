# SPDX-License-Identifier: Apache-2.0
"""What one round hands to the next, and how it and a rollout lie on disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..compact import bits_for, pack, shortest, unpack
from ..embedding import EmbeddingState
from ..errors import Damaged
from ..lora import LoRAConfig, LoRAState
from ..mixture import Mixture, MixtureSettings
from ..optimizer import prefixed, under
from ..rollout import Rollout, SamplingSettings, no_transitions
from .files import read_record, read_tensors, remove_tree, tensor_names, write_record, write_tensors


@dataclass(frozen=True)
class Best:
    """The best picture so far: its latents ``(C, H, W)`` and the round and place that it came from.

    ``z_T`` is empty where the noise is not known.
    """

    z_0: Tensor
    z_T: Tensor
    round: int
    picture: int


@dataclass(frozen=True)
class State:
    """What one round hands to the next; ``None`` where nothing has been learned yet."""

    lora: LoRAState | None = None
    embedding: EmbeddingState | None = None
    best: Best | None = None
    mixture: Mixture | None = None


def write_state(folder: Path, state: State) -> None:
    """Write every part of ``state`` into ``folder``, replacing what an interrupted save left there."""
    remove_tree(folder)
    if state.lora:
        tensors = prefixed("w", state.lora.weights) | prefixed("o", state.lora.optimizer)
        tensors |= prefixed("f", state.lora.fast) | prefixed("m", state.lora.memory)
        write_tensors(folder / "lora.safetensors", tensors, {"config": asdict(state.lora.config)})
    if state.embedding:
        tensors = prefixed("w", state.embedding.weights) | prefixed("o", state.embedding.optimizer)
        write_tensors(folder / "embedding.safetensors", tensors, {"rounds": state.embedding.rounds})
    if state.mixture:
        tensors = {"best": state.mixture.best, "goods": state.mixture.goods}
        write_tensors(folder / "mixture.safetensors", tensors, {"settings": asdict(state.mixture.settings)})
    if state.best:
        place = {"round": state.best.round, "picture": state.best.picture}
        write_tensors(folder / "best.safetensors", {"z_0": state.best.z_0, "z_T": state.best.z_T}, place)
    parts = [name for name in ("lora", "embedding", "mixture", "best") if getattr(state, name) is not None]
    write_record(folder / "state.json", {"parts": parts})


def read_state(folder: Path) -> State:
    """The inverse of :func:`write_state`; an empty state for round 0. :class:`Damaged` names the file that is."""
    if folder.name == "0000":
        return State()
    path = folder / "state.json"
    parts = read_record(path, "parts")["parts"]
    try:
        return _state_of({name: read_tensors(folder / f"{name}.safetensors") for name in parts})
    except (KeyError, TypeError) as error:
        raise Damaged(f"{folder} cannot be read: {type(error).__name__} {error}.") from error


def _state_of(files: dict[str, tuple[dict[str, Tensor], dict[str, Any]]]) -> State:
    lora = embedding = mixture = best = None
    if "lora" in files:
        tensors, metadata = files["lora"]
        lora = LoRAState(LoRAConfig(**metadata["config"]), *(under(kind, tensors) for kind in "wofm"))
    if "embedding" in files:
        tensors, metadata = files["embedding"]
        embedding = EmbeddingState(under("w", tensors), under("o", tensors), metadata["rounds"])
    if "mixture" in files:
        tensors, metadata = files["mixture"]
        mixture = Mixture(tensors["best"], tensors["goods"], MixtureSettings(**metadata["settings"]))
    if "best" in files:
        tensors, metadata = files["best"]
        best = Best(tensors["z_0"], tensors["z_T"], metadata["round"], metadata["picture"])
    return State(lora, embedding, best, mixture)


ROLLOUT_TENSORS = ("z_T", "z_0", "source", "sigmas", "steps", "x", "x_next", "x0_hat", "log_prob")
COMPACT_TENSORS = ("source", "sigmas", "steps", "scale")
KEPT_OF_SAVED_ROUNDS = ("z_T", "z_0", "source", "sigmas")


def write_rollout(path: Path, rollout: Rollout) -> None:
    """Write the rollout as one safetensors file.

    Of a compact one neither ``z_T``, which comes from the seeds again, nor what the update computes again.
    """
    metadata = {"round": rollout.round, "settings": asdict(rollout.settings), "fingerprint": rollout.fingerprint}
    if rollout.compact:
        bits = bits_for(rollout.x[0].numel())
        tensors = {name: getattr(rollout, name) for name in COMPACT_TENSORS}
        tensors |= {"z_0": rollout.z_0, "x": pack(rollout.x, bits)}
        metadata |= {"seed": rollout.seed, "bits": bits}
    else:
        tensors = {name: getattr(rollout, name) for name in ROLLOUT_TENSORS}
    write_tensors(path, {name: shortest(tensor) for name, tensor in tensors.items()}, metadata)


def read_rollout(path: Path) -> Rollout:
    """The inverse of :func:`write_rollout`; without transitions (K = 0) where :func:`slim_rollout` has been, and
    without ``z_T`` where it was not written."""
    tensors, metadata = read_tensors(path)
    try:
        tensors = {name: tensor.float() if tensor.dtype == torch.half else tensor for name, tensor in tensors.items()}
        if "scale" in tensors:
            shape = (*tensors["steps"].shape, *tensors["z_0"].shape[1:])
            tensors["x"] = unpack(tensors["x"], metadata["bits"], shape)
        tensors = no_transitions(tensors["z_0"]) | {"z_T": tensors["z_0"][:0]} | tensors
        settings = SamplingSettings(**metadata["settings"])
        return Rollout(
            metadata["round"], **tensors, settings=settings, fingerprint=metadata["fingerprint"],
            seed=metadata.get("seed", 0),
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise Damaged(f"{path} cannot be read: {type(error).__name__} {error}.") from error


def slim_rollout(path: Path) -> None:
    """Drop the scored transitions, the bulk of a rollout, which nothing needs once its round is saved."""
    if "x" in tensor_names(path):
        tensors, metadata = read_tensors(path)
        write_tensors(path, {key: tensors[key] for key in KEPT_OF_SAVED_ROUNDS if key in tensors}, metadata)
