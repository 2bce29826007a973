# SPDX-License-Identifier: Apache-2.0
"""What little room costs large latents: the gradient from rounded states, and what the compact embedding tells apart.

    python -m tests.compact_cost gradient   # cosine with the gradient from states in float32, by bits
    python -m tests.compact_cost auc        # good above bad in unseen rounds: the paper's network and the compact one

On rounds of the tiny model. For ``auc`` its pictures are enlarged and encoded again by its own autoencoder, so that the
latents have the size of SD 1.5's at 512 x 512, or 16 channels of 128 x 128, with the judge's marks of the picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from hero_core import compact, embedding, rollout, seeding
from hero_core.bench.fresh import fresh_latents
from hero_core.bench.raters import perfect
from hero_core.feedback import Feedback
from hero_core.lora import LoRAConfig, LoRAState
from hero_core.policy import Actor
from hero_core.reward import advantages, auc, binary, similarity
from hero_core.rollout import Rollout, SamplingSettings, sample
from hero_core.tiny.model import TinyModel, load_tiny
from hero_core.tiny.policy import TinyPolicy
from hero_core.tiny.tasks import TASKS
from hero_core.update.common import scored_steps

SETTINGS = SamplingSettings(steps=20)


def policy_of(model: TinyModel, task: str) -> tuple[TinyPolicy, LoRAState]:
    """The policy of a task with a LoRA that has moved a little."""
    policy = TinyPolicy(model, TASKS[task].prompt)
    lora = policy.fresh_lora(LoRAConfig(), seeding.generator(0, "LoRA"))
    noise = seeding.generator("moved")
    moved = {key: w + 0.02 * torch.randn(w.shape, generator=noise) for key, w in lora.weights.items()}
    return policy, LoRAState(lora.config, moved)


# -- gradient -------------------------------------------------------------------------------------------------------


def gradient(policy: TinyPolicy, lora: LoRAState, drawn: Rollout, gains: Tensor) -> Tensor:
    """The gradient of DDPO's loss over the whole round at its start, all of the LoRA's weights in one row."""

    def body(actor: Actor) -> Tensor:
        scored = scored_steps(actor, policy, drawn, drawn.rows)
        for index, weight in scored.chunks(torch.cartesian_prod(*map(torch.arange, drawn.steps.shape))):
            old = scored.rollout.log_prob[index[:, 0], index[:, 1]]
            ratio = (scored.log_prob(index) - old).exp()
            (-gains[index[:, 0]] * ratio * weight).sum().backward()
        return torch.cat([p.grad.flatten() for p in actor.lora.parameters().values()])

    return policy.run(body, lora=lora, rows=drawn.rows, grad=True, cfg=drawn.settings.cfg)


def drawn(policy: TinyPolicy, lora: LoRAState, pictures: int, seed: int, bits: int) -> Rollout:
    """A round whose recorded states are kept in ``bits``; 32 is as they are."""
    z_T = seeding.randn(policy.latent_shape, seeding.picture_generators(pictures, seed, 1, "z_T"))
    source = torch.full((pictures,), -1)
    with mock.patch.object(compact, "LARGE", 0), mock.patch.object(rollout, "bits_for", return_value=bits):
        return sample(policy, lora, z_T, source, SETTINGS, seed=seed, round=1, compact=bits < 32)


def gradients(pictures: int, seeds: int) -> None:
    """Tell cosine and length of the gradient from states of fewer bits against float32's, by task and seed."""
    model = load_tiny()
    for task in ("colour", "place"):
        policy, lora = policy_of(model, task)
        for seed in range(seeds):
            whole = drawn(policy, lora, pictures, seed, 32)
            gains = advantages(binary(perfect(TASKS[task].judge, model.decode(whole.z_0))), 5.0)
            exact = gradient(policy, lora, whole, gains)
            for bits in (8, 6, 4):
                found = gradient(policy, lora, drawn(policy, lora, pictures, seed, bits), gains)
                cosine, length = F.cosine_similarity(found, exact, dim=0), found.norm() / exact.norm()
                print(f"{task} {seed}: {bits} bits, cosine {float(cosine):.5f}, length {float(length):.4f}")


# -- embedding ------------------------------------------------------------------------------------------------------

ENLARGED: dict[str, Callable[[Tensor], Tensor]] = {
    "4x16x16": lambda latents: latents,
    "4x64x64": lambda latents: latents,
    "16x128x128": lambda latents: F.pixel_unshuffle(latents, 2),
}


def rounds_of(model: TinyModel, task: str, seed: int, size: str) -> Iterator[tuple[Tensor, Feedback]]:
    """Three rounds of 64 pictures from fresh noise: their latents at ``size``, and the marks."""
    policy = TinyPolicy(model, TASKS[task].prompt)
    lora = policy.fresh_lora(LoRAConfig(), seeding.generator(0, "LoRA"))
    for z_0 in fresh_latents(policy, lora, 192, SETTINGS, seed=seed).split(64):
        pictures = model.decode(z_0)
        marks = perfect(TASKS[task].judge, pictures)
        factor = {"4x16x16": 0, "4x64x64": 4, "16x128x128": 16}[size]
        if factor:
            parts = (F.interpolate(p, scale_factor=factor, mode="bicubic").clamp(0, 1) for p in pictures.split(2))
            z_0 = torch.cat([ENLARGED[size](model.encode(part)) for part in parts])
        yield z_0, marks


def unseen(kind: type[embedding.Embedding], rounds: list[tuple[Tensor, Feedback]], seed: int) -> list[list[float]]:
    """AUC of the second and third round before learning from them: by E's features, and after the head."""
    shape = tuple(rounds[0][0].shape[1:])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = embedding.EmbeddingState({k: v.detach().clone() for k, v in kind(shape).state_dict().items()})
    found = []
    for number, (z_0, marks) in enumerate(rounds):
        assert isinstance(marks.best, int)
        rivals = [p for p in marks.good if p != marks.best]
        if number:
            with torch.no_grad():
                features = [embedding.embed(state, z_0, project=project) for project in (False, True)]
            found.append([auc(similarity(f, f[marks.best][None]), rivals, marks.bad) for f in features])
        rated = embedding.RatedLatents(z_0[marks.best], z_0[rivals], z_0[marks.bad])
        settings = embedding.EmbeddingSettings(steps=500 if number < len(rounds) - 1 else 0)
        state, _ = embedding.train(state, rated, settings, generator=seeding.generator(seed, number))
    return found


def aucs(sizes: list[str], tasks: list[str], seeds: int) -> None:
    """Tell the AUC of unseen rounds of both networks, by size, task and seed."""
    model = load_tiny()
    for seed in range(seeds):
        for task in tasks:
            for size in sizes:
                rounds = list(rounds_of(model, task, seed, size))
                for kind in (embedding.Embedding, embedding.CompactEmbedding):
                    features, head = torch.tensor(unseen(kind, rounds, seed)).mean(0).tolist()
                    print(
                        f"{size} {task} {seed} {kind.__name__}: {features:.3f}, after the head {head:.3f}", flush=True
                    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("gradient", "auc"))
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sizes", nargs="*", default=["4x16x16", "4x64x64"])
    parser.add_argument("--tasks", nargs="*", default=["colour", "place", "count"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "gradient":
        gradients(options.pictures, options.seeds)
    else:
        aucs(options.sizes, options.tasks, options.seeds)
