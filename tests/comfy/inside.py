# SPDX-License-Identifier: Apache-2.0
"""Checks that need ComfyUI's own classes in the same process. Run as ``python inside.py CHECKOUT PACK OUT.json``
(and names of checks, to run those alone).

Each ``check_*`` returns numbers; ``test_policy.py`` says what they must be. Everything runs under inference mode, as
nodes do.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

CHECKOUT, PACK, OUT = (Path(argument) for argument in sys.argv[1:4])
NAMES = sys.argv[4:]
sys.path.insert(0, str(CHECKOUT))
ON_CPU = os.environ.get("HERO_TEST_DEVICE", "cpu") == "cpu"
sys.argv = ["main.py", *(["--cpu"] if ON_CPU else []), "--base-directory", tempfile.mkdtemp()]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import aiohttp.web  # noqa: E402, F401 - ComfyUI has it loaded when it comes to custom nodes
import comfy.controlnet  # noqa: E402
import comfy.hooks  # noqa: E402
import comfy.k_diffusion.sampling  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.model_sampling  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.utils  # noqa: E402
import comfy_api.latest  # noqa: E402, F401
import latent_preview  # noqa: E402, F401
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

spec = importlib.util.spec_from_file_location("hero pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)])
assert spec
assert spec.loader
pack = importlib.util.module_from_spec(spec)
sys.modules["hero pack"] = pack
BEFORE = set(sys.modules)
with contextlib.redirect_stdout(io.StringIO()) as printed:
    spec.loader.exec_module(pack)
IMPORT = {
    "printed": printed.getvalue(),
    "heavy": sorted({"peft", "transformers", "matplotlib", "pandas", "scipy"} & (set(sys.modules) - BEFORE)),
}


def part(name: str) -> Any:
    """A module of the pack, which may be installed under a name that no import statement takes."""
    return importlib.import_module(f"hero pack.{name}")


policy_module, tiny = part("nodes.comfy_policy"), part("nodes.comfy_tiny")
core_lora, core_files = part("hero_core.lora"), part("hero_core.store.files")
host, autograd = part("nodes.comfy_host"), part("nodes.comfy_autograd")
frozen = part("nodes.comfy_frozen")
rollout, seeding, tiny_model = part("hero_core.rollout"), part("hero_core.seeding"), part("hero_core.tiny.model")
transition = part("hero_core.transition")
ddpo, nft = part("hero_core.update.ddpo"), part("hero_core.update.nft")
reward, feedback = part("hero_core.reward"), part("hero_core.feedback")
HeroError = part("hero_core.errors").HeroError

WEIGHTS, FLOW_WEIGHTS = tiny_model.load_weights(), tiny_model.load_weights(tiny_model.FLOW_WEIGHTS)
DIT_CONFIG = part("hero_core.tiny.dit").DIT_CONFIG
CLIP = tiny.clip(WEIGHTS["text"])
PROMPT = "photo of one blue rose in a vase"
STEPS = 10


def fresh_model() -> Any:
    return tiny.model(WEIGHTS["unet"])


def encoded(text: str) -> list:
    return CLIP.encode_from_tokens_scheduled(CLIP.tokenize(text))


def latent(n: int = 4, side: int = 16) -> dict[str, Tensor]:
    return {"samples": torch.zeros(n, 4, side, side)}


def made_policy(model: Any = None, positive: Any = None, side: int = 16) -> Any:
    positive = encoded(PROMPT) if positive is None else positive
    return policy_module.ComfyPolicy(model or fresh_model(), positive, encoded(""), latent(4, side))


def untrained(policy: Any) -> Any:
    return policy.fresh_lora(core_lora.LoRAConfig(), torch.Generator().manual_seed(0))


def trained(policy: Any, size: float = 0.02, **config: Any) -> Any:
    """A LoRA with B set, so that it changes pictures."""
    generator = torch.Generator().manual_seed(1)
    state = policy.fresh_lora(core_lora.LoRAConfig(**config), torch.Generator().manual_seed(0))
    weights = {
        k: torch.randn(v.shape, generator=generator) * size if k.endswith("lora_B.weight") else v
        for k, v in state.weights.items()
    }
    return core_lora.LoRAState(state.config, weights)


def drawn(policy: Any, lora: Any, n: int = 4, micro_batch: int = 4) -> Any:
    settings = rollout.SamplingSettings(steps=STEPS, micro_batch=micro_batch, scored_steps=2)
    with host.normal_mode():
        z_T = seeding.randn(policy.latent_shape, seeding.picture_generators(n, "z_T"))
        source = torch.full((n,), -1)
        return rollout.sample(policy, lora, z_T, source, settings, seed=3, round=1)


def updated(policy: Any, lora: Any, round: Any, rewards: Tensor | None = None) -> tuple[Any, dict[str, float]]:
    """One DDPO update of a round."""
    rewards = torch.linspace(0, 1, round.n) if rewards is None else rewards
    settings = ddpo.DDPOSettings(batch=2, scored_steps=2)
    with host.normal_mode():
        return ddpo.update(policy, lora, round, reward.Reward(rewards, feedback.Feedback(round.n)), settings, seed=0)


def ratio_error(policy: Any, lora: Any, round: Any) -> float:
    return updated(policy, lora, round)[1]["ratio_error"]


def stock_sample(model: Any, z_T: Tensor, sampler: Any, sigmas: Tensor, positive: Any = None) -> Tensor:
    positive = encoded(PROMPT) if positive is None else positive
    return comfy.samplers.sample(
        model, z_T, positive, encoded(""), 5.0, model.load_device, sampler, sigmas,
        model_options=model.model_options, latent_image=torch.zeros_like(z_T), disable_pbar=True, seed=0,
    )  # fmt: skip


def euler(model: Any, z_T: Tensor, sigmas: Tensor, **more: Any) -> Tensor:
    return stock_sample(model, z_T, comfy.samplers.ksampler("euler"), sigmas, **more)


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def check_import() -> dict[str, Any]:
    """What loading the pack brought along."""
    return IMPORT


# -- checks -----------------------------------------------------------------------------------------------------------


def check_stock_ancestral_sampler() -> dict[str, float]:
    """HERO_Sampler's pictures against the stock sampler's, given the same noise."""
    return ancestral(fresh_model())


def check_stock_ancestral_sampler_of_v_models() -> dict[str, float]:
    """The same with a UNet that predicts v."""
    return ancestral(v_model())


def v_model() -> Any:
    """The tiny UNet read as one that predicts v: its pictures mean nothing, and what is computed of it still holds."""

    class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
        pass

    model = fresh_model()
    model.add_object_patch("model_sampling", Sampling(model.model.model_config))
    return model


def check_stock_ancestral_sampler_of_flow_models() -> dict[str, float]:
    """Its steps are ours with another eta in each: the one that gives the same noise must give the same mean."""
    shift, sigmas = torch.tensor([0.3]), torch.tensor([1.0, 0.8, 0.5, 0.2, 0.05])
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    nothing, unit = torch.zeros_like(x), torch.ones_like(x)

    class Model:
        inner_model = type("Inner", (), {"model_patcher": type("P", (), {"get_model_object": lambda *_: None})()})()

        def __call__(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
            return 0.7 * x.tanh() + shift

    error = 0.0
    for pair in (sigmas[i : i + 2] for i in range(len(sigmas) - 1)):

        def stock(noise: Tensor, pair: Tensor = pair) -> Tensor:
            return comfy.k_diffusion.sampling.sample_euler_ancestral_RF(
                Model(), x, pair, disable=True, noise_sampler=lambda *_: noise
            )  # fmt: skip

        mean = stock(nothing)
        s = float((stock(unit) - mean).mean())
        full = float(transition.Transitions.of(pair, 1.0, True).s[0])
        ours = transition.Transitions.of(pair, s / full, True)
        error = max(error, difference(mean, ours.mean(x, 0.7 * x.tanh() + shift, 0)))
    return {"mean": error}


def ancestral(model: Any) -> dict[str, float]:
    """How far HERO_Sampler and the stock ancestral sampler lie apart."""
    policy = made_policy(model)
    ours = drawn(policy, untrained(policy))
    generators = seeding.picture_generators(4, 3, 1, "step noise")

    def noise(*_: Any) -> Tensor:
        return seeding.randn(policy.latent_shape, generators)

    sampler = comfy.samplers.KSAMPLER(
        comfy.k_diffusion.sampling.sample_euler_ancestral, extra_options={"noise_sampler": noise}
    )
    theirs = stock_sample(model, ours.z_T, sampler, policy.sigmas(STEPS, "normal"))
    vae = tiny.vae(WEIGHTS["vae"])
    finished = host.finished_latent(policy.model, ours.z_0)["samples"]
    pictures = [(vae.decode(z) * 255).round() for z in (finished, theirs)]
    spread = float(theirs.std())
    return {
        "latent": difference(finished, theirs) / spread,
        "latent_rms": float((finished - theirs).square().mean().sqrt()) / spread,
        "other_pixels": float((pictures[0] != pictures[1]).float().mean()),
        "pixel": difference(*pictures),
    }


def check_model_is_left_alone() -> dict[str, Any]:
    """Sampling and training leave MODEL as it came: names, values, patches, injections."""
    model = fresh_model()
    names, z_T = sorted(model.model.state_dict()), torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    policy = made_policy(model)
    sigmas = policy.sigmas(4, "normal")
    before = euler(model, z_T, sigmas)
    drawn(policy, trained(policy))
    policy.run(lambda actor: None, lora=trained(policy), rows=2, grad=True, cfg=5.0)
    failed = False
    try:
        policy.run(lambda actor: 1 / 0, lora=trained(policy), rows=2, grad=True, cfg=5.0)
    except ZeroDivisionError:
        failed = True
    return {
        "same_names": sorted(model.model.state_dict()) == names,
        "difference": difference(before, euler(model, z_T, sigmas)),
        "patches": len(model.patches),
        "hooks": sum(len(module._forward_hooks) for module in model.model.modules()),
        "options": sorted(model.model_options["transformer_options"]),
        "failed": failed,
    }


def check_sides() -> dict[str, float]:
    """Guidance is what it is made of, and each side may be had alone, in any order."""
    policy = made_policy()
    x, sigma = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2)) * 3, torch.tensor([5.0, 2.0])
    sides = ("guided", "negative", "positive", "guided")

    def body(actor: Any) -> list[Tensor]:
        return [actor.denoise(x, sigma, side) for side in sides]

    guided, negative, positive, again = policy.run(body, lora=trained(policy), rows=2, grad=False, cfg=3.0)
    return {
        "difference": difference(guided, negative + 3.0 * (positive - negative)) / float(guided.std()),
        "apart": difference(positive, negative),
        "again": difference(guided, again),
    }


def check_calls() -> dict[str, dict[str, int]]:
    """How often the model itself is called, with guidance and without: for a round of four, and by each update."""
    return {f"{cfg:g}": calls_at(cfg) for cfg in (1.0, 5.0)}


def calls_at(cfg: float) -> dict[str, int]:
    policy, seen = made_policy(), [0]

    def count(*_: Any) -> None:
        seen[0] += 1

    hook = policy.model.model.diffusion_model.register_forward_pre_hook(count)
    settings = rollout.SamplingSettings(steps=STEPS, micro_batch=4, scored_steps=2, cfg=cfg)
    noise = seeding.randn(policy.latent_shape, seeding.picture_generators(4, "z_T"))
    marks = reward.Reward(torch.tensor([1.0, 0.0, 1.0, 0.0]), feedback.Feedback(4, {0: "good", 1: "bad"}, 0))
    few = {"batch": 4, "scored_steps": 2}
    rules = {
        "DDPO": ddpo.DDPOSettings(**few),
        "D3PO": part("hero_core.update.d3po").D3POSettings(**few),
        "Score as action": part("hero_core.update.score_action").ScoreActionSettings(
            critic_steps=3, min_r2=-1e9, **few
        ),
        "NFT": nft.NFTSettings(steps=2, batch=4),
        "NFT, near the base": nft.NFTSettings(steps=2, batch=4, ref_penalty=0.1),
        "goods": part("hero_core.update.goods").GoodsSettings(steps=2, batch=4),
    }
    found = {}
    with host.normal_mode():
        lora = trained(policy)
        round = rollout.sample(policy, lora, noise, torch.full((4,), -1), settings, seed=3, round=1)
        found["drawing"], seen[0] = seen[0], 0
        for name, one in rules.items():
            part("hero_core.update").RULES[type(one)](policy, lora, round, marks, one, seed=0)
            found[name], seen[0] = seen[0], 0
    hook.remove()
    return found


def check_forward_update() -> dict[str, float]:
    """One update from finished latents alone, twice the same, with a penalty that runs the model with its LoRA off."""
    policy = made_policy()
    round = rollout.join([drawn(policy, untrained(policy), n=6, micro_batch=4)])
    marks = feedback.Feedback(6, {0: "good", 1: "bad", 2: "good", 3: "bad"}, 0)
    settings = nft.NFTSettings(steps=3, batch=4, ref_penalty=0.1)
    with host.normal_mode():
        (after, metrics), (again, _) = (
            nft.update(policy, untrained(policy), round, reward.Reward(torch.zeros(6), marks), settings, seed=0)
            for _ in range(2)
        )
    before = untrained(policy)
    return {
        "moved": max(difference(after.weights[k], before.weights[k]) for k in before.weights),
        "repeat": max(difference(after.weights[k], again.weights[k]) for k in before.weights),
        "recorded": round.steps.shape[1],
        "distance": metrics["distance_to_base"],
    }


def check_gradients() -> dict[str, Any]:
    """A loss reaches the LoRA and nothing else, over weights that were loaded in inference mode."""
    policy = made_policy()
    before = sum(p.is_inference() for p in policy.model.model.parameters())

    def body(actor: Any) -> tuple[int, int]:
        x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2))
        actor.denoise(x, torch.tensor([5.0, 2.0])).square().mean().backward()
        reached = sum(float(p.grad.abs().max()) > 0 for k, p in actor.lora.parameters().items() if "lora_A" in k)
        base = [p for n, p in actor.model.named_parameters() if "lora_" not in n]
        return reached, sum(p.grad is not None for p in base)

    reached, leaked = policy.run(body, lora=trained(policy), rows=2, grad=True, cfg=5.0)
    modules = len(untrained(policy).weights) // 2
    return {"inference_weights": before, "reached": reached, "leaked": leaked, "modules": modules}


def check_checkpointing() -> dict[str, Any]:
    """Recomputing blocks in the backward pass: the same numbers from less memory, and no trace left."""
    policy = made_policy()
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2)) * 3
    kept: dict[bool, int] = {False: 0, True: 0}

    def gradients(recompute: bool) -> tuple[Tensor, list[Tensor]]:
        def count(tensor: Tensor) -> Tensor:
            kept[recompute] += tensor.numel()
            return tensor

        def body(actor: Any) -> tuple[Tensor, list[Tensor]]:
            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                x0 = actor.denoise(x, torch.tensor([5.0, 2.0]))
            x0.square().mean().backward()
            return x0.detach(), [p.grad for p in actor.lora.parameters().values()]

        policy.recompute = recompute
        return policy.run(body, lora=trained(policy), rows=2, grad=True, cfg=5.0)

    (plain, gradient), (again, regained) = gradients(False), gradients(True)
    blocks = autograd.blocks(policy.model.model.diffusion_model)
    return {
        "blocks": sorted({type(block).__name__ for block in blocks}),
        "count": len(blocks),
        "x0": difference(plain, again),
        "gradient": max(difference(a, b) / float(a.abs().max()) for a, b in zip(gradient, regained, strict=True)),
        "kept": kept[True] / kept[False],
        "left": sum("forward" in vars(module) for module in policy.model.model.modules()),
    }


def check_update_starts_at_ratio_one_of_v_models() -> dict[str, float]:
    """The same with a UNet that predicts v."""
    return first_update(made_policy(v_model()))


F32, F16, BF16, F8 = torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn
PRECISIONS = {
    "float16": (F16, None), "bfloat16": (BF16, None), "bfloat16 cast to float32": (BF16, F32),
    "fp8 cast to float16": (F8, F16), "fp8 cast to bfloat16": (F8, BF16), "fp8 cast to float32": (F8, F32),
}  # fmt: skip
"""What the weights are kept in, and what is computed in where that is something else."""
AT_1024 = 1 / (40 * 4 * 128 * 128)
"""The gradient of a loss over a 1024 x 1024 picture of SDXL, where it enters the model."""


def model_in(weights: torch.dtype, compute: torch.dtype | None = None) -> Any:
    """The tiny model as the host loads it in another precision."""
    config = tiny.TinyConfig(tiny.UNET_CONFIG)
    config.set_inference_dtype(weights, compute)
    base = config.get_model(WEIGHTS["unet"], device=torch.device("cpu"))
    base.load_model_weights(dict(WEIGHTS["unet"]), "")
    return comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))


def rounded(dtype: torch.dtype) -> Any:
    """The tiny model in float32 with the weights that it has in ``dtype``."""
    model = model_in(F32)
    for parameter in model.model.diffusion_model.parameters():
        parameter.data = parameter.data.to(dtype).float()
    return model


def lora_gradient(model: Any, recompute: bool = False, scaled: bool = True) -> tuple[Tensor, int]:
    """The gradient of a loss of SDXL's size, and the bytes that were kept for it."""
    draw, kept = torch.Generator().manual_seed(2), [0]
    with host.normal_mode():
        noise, z_0, target = (torch.randn(4, 4, 16, 16, generator=draw) for _ in range(3))
        sigma = torch.tensor([10.0, 5.0, 2.0, 0.5])

    def count(tensor: Tensor) -> Tensor:
        kept[0] += tensor.nbytes
        return tensor

    def body(actor: Any) -> Tensor:
        scale = actor.gradient_scale
        if not scaled:
            actor.gradient_scale = None

        def compute() -> tuple[Tensor, None]:
            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                x0_hat = actor.denoise(z_0 + sigma[:, None, None, None] * noise, sigma, "positive")
            return (x0_hat * target).sum() * AT_1024, None

        if scale is not None and scaled:
            scale.backward(compute)
        else:
            compute()[0].backward()
        return torch.cat([p.grad.flatten() for p in actor.lora.parameters().values()])

    policy = made_policy(model)
    policy.recompute = recompute
    with host.normal_mode():
        return policy.run(body, lora=trained(policy), rows=4, grad=True, cfg=5.0), kept[0]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


def check_precisions() -> dict[str, dict[str, float]]:
    """The LoRA's gradient against that of the same weights in float32, kept and recomputed, and the update's ratio."""
    found = {}
    for name, (weights, compute) in PRECISIONS.items():
        exact, most = lora_gradient(rounded(weights))
        plain, kept = lora_gradient(model_in(weights, compute))
        again, _ = lora_gradient(model_in(weights, compute), recompute=True)
        half = F16 in (compute, weights) and compute in (F16, None)
        unscaled = lora_gradient(model_in(weights, compute), scaled=False)[0] if half else exact
        policy = made_policy(model_in(weights, compute))
        lora = trained(policy)
        found[name] = {
            "cosine": min(cosine(plain, exact), cosine(again, exact)),
            "length": float(plain.norm() / exact.norm()),
            "unscaled": cosine(unscaled, exact),
            "kept": kept / most,
            "ratio_error": ratio_error(policy, lora, drawn(policy, lora)),
        }
    return found


def check_weights_elsewhere() -> dict[str, float]:
    """Layers that read their weight at each call, as those do that wait outside of the GPU, and with a patch on it."""
    exact, most = lora_gradient(fresh_model())
    waiting = fresh_model()
    for module in waiting.model.diffusion_model.modules():
        if hasattr(module, "comfy_cast_weights"):
            module.comfy_cast_weights = True
    found, kept = lora_gradient(waiting)
    return {"difference": difference(found, exact) / float(exact.abs().max()), "kept": kept / most}


def check_frozen_layers() -> dict[str, float]:
    """The gradient through layers whose weight is read with a patch or a scale, against the host's own through them."""
    scaled = getattr(comfy.ops, "scaled_fp8_ops", lambda **_: comfy.ops.manual_cast)(override_dtype=F8)
    draw = torch.Generator().manual_seed(0)
    with host.normal_mode(grad=True):
        patched, scale = comfy.ops.manual_cast.Linear(8, 8, dtype=F8), scaled.Linear(8, 8, dtype=F8)
        convolution = comfy.ops.manual_cast.Conv2d(1, 1, 3, padding=1, dtype=F8)
        for layer in (patched, scale, convolution):
            for name, parameter in list(layer.named_parameters()):
                made = torch.randn(parameter.shape, generator=draw).to(parameter.dtype)
                setattr(layer, name, torch.nn.Parameter(made, requires_grad=False))
        patched.weight_function = [lambda weight: weight * 1.5]
        layers = torch.nn.Sequential(patched, torch.nn.Tanh(), scale, torch.nn.Unflatten(0, (1, 1, 4)), convolution)
        x = torch.randn(4, 8, generator=draw, requires_grad=True)
        found = []
        for device in (None, torch.device("cpu"), torch.device("meta")):  # seen from meta, every layer is elsewhere
            with frozen.refetching(layers, device) if device else contextlib.nullcontext():
                found.append(torch.autograd.grad(layers(x).square().sum(), x)[0])
    host_s, linear, every = found
    return {
        "difference": max(difference(host_s, one) for one in (linear, every)) / float(host_s.abs().max()),
        "left": float(sum("forward" in vars(layer) for layer in layers)),
    }


def check_strides_of_frozen_layers() -> dict[str, list]:
    """How the input of a frozen layer lies in memory when a model draws and when it learns: kernels round by it."""
    seen = []

    class Layer(comfy.ops.manual_cast.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(list(x.stride()))
            return super().forward(x)

    with host.normal_mode(grad=True):
        layer = Layer(8, 8, dtype=F8)
        for name, parameter in list(layer.named_parameters()):
            setattr(layer, name, torch.nn.Parameter(torch.ones(parameter.shape).to(F8), requires_grad=False))
        part = torch.ones(2, 6, 24, requires_grad=True)[..., 8:16]
        with torch.no_grad():
            layer(part)
        with frozen.refetching(layer, torch.device("cpu")):
            layer(part).sum().backward()
    return {"drawn": seen[0], "learned": seen[1]}


def quantised(layout: str, compute: torch.dtype, **how: Any) -> Any:
    """The tiny model with the linear layers of its blocks in one of the host's quantised formats, as from a file."""
    config = tiny.TinyConfig(tiny.UNET_CONFIG)
    config.quant_config = {"mixed_ops": True}
    config.set_inference_dtype(compute, compute)
    base = config.get_model(dict(WEIGHTS["unet"]), device=torch.device("cpu"))
    chosen = {key for key, weight in WEIGHTS["unet"].items() if ".transformer_blocks." in key and weight.ndim == 2}
    base.load_model_weights(in_format(WEIGHTS["unet"], chosen, layout, compute, **how), "")
    return comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))


def in_format(
    weights: dict[str, Tensor], chosen: set[str], layout: str, compute: torch.dtype, **how: Any
) -> dict[str, Tensor]:
    """A state dict with its ``chosen`` weights in one of the host's quantised formats, as a file holds them."""
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    # The formats that rotate take blocks of 256.
    wide = 256 if "w4a" in layout or how else 32
    found: dict[str, Tensor] = {}
    for key, weight in weights.items():
        if key not in chosen or weight.shape[1] % wide:
            found[key] = weight.to(compute)
            continue
        scale = {} if layout in ("mxfp8", "convrot_w4a4", "asym_w4a8_int8") else {"scale": "recalculate"}
        kind = QUANT_ALGOS[layout]["comfy_tensor_layout"]
        made = QuantizedTensor.from_float(weight.to(compute), kind, **scale, **how)
        found.update(made.state_dict(key))
        words = {"format": layout, "convrot": "convrot" in how}
        if layout == "asym_w4a8_int8":
            words["group_size"] = made._params.group_size
        told = list(json.dumps(words).encode())
        found[key.removesuffix("weight") + "comfy_quant"] = torch.tensor(told, dtype=torch.uint8)
    return found


def dequantised(model: Any) -> Any:
    """The tiny model in float32 with the numbers that the weights of ``model`` stand for."""
    plain, read = fresh_model(), dict(model.model.diffusion_model.named_parameters())
    for name, parameter in plain.model.diffusion_model.named_parameters():
        weight = read[name].data
        parameter.data = (weight if type(weight) is Tensor else weight.dequantize()).float().clone()
    return plain


LAYOUTS = {
    "fp8": ("float8_e4m3fn", BF16), "fp8 in float16": ("float8_e4m3fn", F16), "fp8 e5m2": ("float8_e5m2", BF16),
    "int8": ("int8_tensorwise", BF16), "nvfp4": ("nvfp4", BF16), "mxfp8": ("mxfp8", BF16),
    "w4a8": ("asym_w4a8_int8", BF16), "w4a4": ("convrot_w4a4", BF16),
}  # fmt: skip


def while_patched(model: Any, lora: Any) -> str:
    """The fingerprint of a MODEL while another clone's patches lie on its weights."""
    policy = made_policy(model)
    keys = policy.lora_keys(core_lora.lora_paths(lora.weights))
    tensors, _ = core_lora.lora_file(lora, keys, {})
    merged, _ = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)
    euler(merged, torch.zeros(1, 4, 16, 16), policy.sigmas(1, "simple"))
    return made_policy(model).fingerprint


def check_quantised() -> dict[str, dict[str, Any]]:
    """The LoRA's gradient against the dequantised model's in float32, and the ratio of an update; none on old hosts."""
    if importlib.util.find_spec("comfy.quant_ops") is None:
        return {}
    found = {}
    for name in (*LAYOUTS, "int8 convrot"):
        made = LAYOUTS.get(name)
        model = quantised(*made) if made else quantised("int8_tensorwise", BF16, per_channel=True, convrot=True)
        exact, most = lora_gradient(dequantised(model))
        plain, kept = lora_gradient(model)
        again, _ = lora_gradient(model, recompute=True)
        policy = made_policy(model)
        lora = trained(policy)
        layers = [p.data for p in model.model.diffusion_model.parameters() if type(p.data) is not Tensor]
        found[name] = {
            "cosine": min(cosine(plain, exact), cosine(again, exact)),
            "length": float(plain.norm() / exact.norm()),
            "kept": kept / most,
            "layers": len(layers),
            "ratio_error": ratio_error(policy, lora, drawn(policy, lora)),
            "print": policy.fingerprint,
            "print_while_patched": while_patched(model, lora),
        }
    return found


def check_update_starts_at_ratio_one() -> dict[str, float]:
    """Sample, then one DDPO update: the ratio before the first step, and that the LoRA moved."""
    return first_update(made_policy())


def first_update(policy: Any) -> dict[str, float]:
    """What a first update of a round of six gives, twice."""
    lora = trained(policy)
    round = drawn(policy, lora, n=6, micro_batch=4)
    rewards = torch.tensor([0.9, 0.1, 0.5, 0.7, 0.2, 0.4])
    (after, metrics), (again, _) = (updated(policy, lora, round, rewards) for _ in range(2))
    moved = max(difference(after.weights[k], lora.weights[k]) for k in lora.weights)
    return {
        "ratio_error": metrics["ratio_error"],
        "moved": moved,
        "repeat": max(difference(after.weights[k], again.weights[k]) for k in lora.weights),
    }


def check_lora_file() -> dict[str, Any]:
    """The file through LoraLoader's own code equals the MODEL output bit for bit, and nearly the unmerged policy."""
    model = fresh_model()
    policy = made_policy(model)
    lora = trained(policy, rank=3, alpha=5.0)  # alpha / rank counts, here and in the file
    paths = core_lora.lora_paths(lora.weights)
    keys = policy.lora_keys(paths)
    file = Path(tempfile.mkdtemp()) / "lora.safetensors"
    core_files.write_shared(file, *core_lora.lora_file(lora, keys, {}))
    loaded, _ = comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(str(file)), 1.0, 0.0)
    z_T, sigmas = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(5)), policy.sigmas(6, "normal")
    from_file, base = euler(loaded, z_T, sigmas), euler(model, z_T, sigmas)
    from_socket = euler(policy_module.with_lora(policy.model, lora), z_T, sigmas)

    def denoised(model: Any, lora: Any) -> Tensor:
        body = lambda actor: actor.denoise(z_T, torch.full((2,), 3.0))  # noqa: E731
        return made_policy(model).run(body, lora=lora, rows=2, grad=False, cfg=5.0)

    return {
        "patched": len(loaded.patches),
        "modules": len(paths),
        "file_against_socket": difference(from_file, from_socket),
        "file_against_base": difference(from_file, base),
        "merged_against_unmerged": difference(denoised(model, lora), denoised(loaded, untrained(policy))),
        "kohya": all(keys[path] == core_lora.kohya_key(path, UNET) for path in paths),
    }


def check_lora_beside_quantised_weights() -> dict[str, Any]:
    """The MODEL output on fp8 weights: the LoRA as it was trained, put on and taken off by the host."""
    model = model_in(F8, BF16)
    policy = made_policy(model)
    small, other = trained(policy, size=0.002), trained(policy, size=0.01)
    z_T, sigmas = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(5)), policy.sigmas(6, "normal")
    body = lambda actor: actor.denoise(z_T, torch.full((2,), 3.0))  # noqa: E731

    def denoised(model: Any, lora: Any) -> Tensor:
        return made_policy(model).run(body, lora=lora, rows=2, grad=False, cfg=5.0)

    base = euler(model, z_T, sigmas)
    worn = [policy_module.with_lora(model, lora) for lora in (small, other)]
    seen = [euler(one, z_T, sigmas) for one in (*worn, model, *worn)]
    paths = core_lora.lora_paths(small.weights)
    tensors, _ = core_lora.lora_file(small, policy.lora_keys(paths), {})
    merged, _ = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)
    as_learned = denoised(model, small)
    effect = as_learned - denoised(model, untrained(policy))
    return {
        "as_learned": difference(denoised(worn[0], untrained(policy)), as_learned),
        "lost_when_merged": float((denoised(merged, untrained(policy)) - as_learned).norm() / effect.norm()),
        "base_again": difference(seen[2], base),
        "each_its_own": [difference(seen[0], seen[3]), difference(seen[1], seen[4])],
        "apart": min(difference(seen[0], base), difference(seen[0], seen[1])),
        "prints": len({made_policy(one).fingerprint for one in (model, *worn)}),
        "patches": len(worn[0].patches),
    }


def check_rows() -> dict[str, Any]:
    """Every model call has exactly ``rows`` rows, also with regional prompts of one shape and memory to spare."""
    model, seen = fresh_model(), []
    inner = model.model.apply_model

    def counting(x: Tensor, *arguments: Any, **more: Any) -> Tensor:
        seen.append(len(x))
        return inner(x, *arguments, **more)

    model.model.apply_model = counting
    left, right = encoded(PROMPT), encoded("photo of one red rose in a vase")
    left = [[left[0][0], {**left[0][1], "area": (16, 8, 0, 0), "strength": 1.0}]]
    right = [[right[0][0], {**right[0][1], "area": (16, 8, 0, 8), "strength": 1.0}]]
    policy = made_policy(model, positive=[*left, *right])
    round = drawn(policy, trained(policy), n=5, micro_batch=3)
    areas = len(seen)
    error = ratio_error(policy, trained(policy), round)
    finite = bool(round.z_0.isfinite().all())
    return {"rows": sorted(set(seen)), "calls": areas, "ratio_error": error, "finite": finite}


def check_time_dependence() -> dict[str, bool]:
    """Rows of different noise levels share a call only where nothing asks for the time."""
    timed = [[encoded(PROMPT)[0][0], {"start_percent": 0.0, "end_percent": 0.5}]]
    patched = fresh_model()
    patched.set_model_sampler_post_cfg_function(lambda arguments: arguments["denoised"])
    return {
        "plain": made_policy().mixed_sigmas,
        "timed": made_policy(positive=timed).mixed_sigmas,
        "patched": made_policy(patched).mixed_sigmas,
    }


def check_timed_conditioning_trains() -> dict[str, float]:
    """Two prompts that hand over in the middle, through sampling and an update."""
    first = [[encoded(PROMPT)[0][0], {"start_percent": 0.0, "end_percent": 0.5}]]
    second = [[encoded("photo of one red rose in a vase")[0][0], {"start_percent": 0.5, "end_percent": 1.0}]]
    policy = made_policy(positive=[*first, *second])
    lora = trained(policy)
    round = drawn(policy, lora, n=4)
    error = ratio_error(policy, lora, round)
    return {"ratio_error": error}


def check_lora_beside_layers_of_one_kernel() -> dict[str, float]:
    """The MODEL output on Wan in int8, whose feed-forwards have one kernel for two layers: what the LoRA changes there
    under the stock sampler, and what it changes in training; none on old hosts."""
    if not hasattr(comfy.ops, "linear_input_act"):
        return {}
    from families import FAMILIES

    family = FAMILIES["Wan 2.1"]
    plain = family.model().model.diffusion_model.state_dict()
    config = comfy.supported_models.WAN21_T2V(dict(family.config))
    config.quant_config = {"mixed_ops": True}
    config.set_inference_dtype(BF16, BF16)
    base = config.get_model({}, device=torch.device("cpu"))
    chosen = {key for key in plain if key.startswith("blocks.") and plain[key].ndim == 2}
    base.load_model_weights(in_format(plain, chosen, "int8_tensorwise", BF16), "")
    model = comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))
    prompts = family.text(1), family.text(2)
    policy = policy_module.ComfyPolicy(model, *prompts, {"samples": torch.zeros(2, 16, 1, 16, 16)})
    lora = trained(policy, size=0.5, targets=r".*ffn\.2")
    x, sigmas = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(5)), torch.tensor([0.6, 0.0])

    def stock(model: Any) -> Tensor:
        framed = host.framed(policy.model.model, x)
        drawn = comfy.samplers.sample(
            model, framed, *prompts, 1.0, model.load_device, comfy.samplers.ksampler("euler"), sigmas,
            model_options=model.model_options, latent_image=torch.zeros_like(framed), disable_pbar=True, seed=0,
        )  # fmt: skip
        return host.latents_in(model, {"samples": drawn})

    def learned(lora: Any) -> Tensor:
        body = lambda actor: actor.denoise(x * 0.6, sigmas[:1].expand(2), "positive")  # noqa: E731
        return policy.run(body, lora=lora, rows=2, grad=False, cfg=1.0)

    seen = stock(policy_module.with_lora(model, lora)) - stock(model)
    meant = learned(lora) - learned(policy.fresh_lora(lora.config, torch.Generator().manual_seed(0)))
    return {"cosine": cosine(seen.flatten(), meant.flatten()), "length": float(seen.norm() / meant.norm())}


def check_about() -> dict[str, dict[str, str]]:
    """What shared files say of the model of each family, and of a checkpoint that is there, too small, or gone."""
    import folder_paths
    from families import FAMILIES

    meta, about = torch.device("meta"), part("nodes.comfy_about").about
    known = {name: one.base(meta) for name, one in FAMILIES.items() if one.known}
    models = {name: comfy.model_patcher.ModelPatcher(base, meta, meta) for name, base in known.items()}
    folder = Path(tempfile.mkdtemp())
    folder_paths.add_model_folder_path("diffusion_models", str(folder))
    (folder / "whole.safetensors").write_bytes(b"a" * 0x100000 + b"b" * 0x10000 + b"c")
    (folder / "small.safetensors").write_bytes(b"a")
    files = {name: about(fresh_model(), f"{name}.safetensors") for name in ("whole", "small", "gone")}
    return {**{name: about(model, None) for name, model in models.items()}, **files}


def check_weight_hooks() -> dict[str, float]:
    """A LoRA hook on the conditioning works below our LoRA, on the very layers that ours wraps."""
    model = fresh_model()
    policy = made_policy(model)
    other = trained(policy, size=0.05)
    tensors = {}
    for path, key in policy.lora_keys(core_lora.lora_paths(other.weights)).items():
        tensors[f"{key}.lora_down.weight"] = other.weights[f"{path}.lora_A.weight"]
        tensors[f"{key}.lora_up.weight"] = other.weights[f"{path}.lora_B.weight"]
        tensors[f"{key}.alpha"] = torch.tensor(4.0)
    hook = comfy.hooks.create_hook_lora(lora=tensors, strength_model=1.0, strength_clip=0.0)
    hooked = [[cond, {**options, "hooks": hook}] for cond, options in encoded(PROMPT)]
    unhooked = [[cond, {**options, "hooks": hook}] for cond, options in encoded("")]
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2)) * 3

    def denoise(policy: Any) -> Tensor:
        body = lambda actor: actor.denoise(x, torch.full((2,), 3.0))  # noqa: E731
        return policy.run(body, lora=trained(policy), rows=2, grad=False, cfg=5.0)

    with_hook = policy_module.ComfyPolicy(model, hooked, unhooked, latent())
    patched, _ = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)
    a, b, c = denoise(with_hook), denoise(made_policy(patched)), denoise(policy)
    lora, round = trained(policy), drawn(with_hook, trained(policy))
    error = ratio_error(with_hook, lora, round)
    return {
        "hook_against_patch": difference(a, b),
        "hook_against_none": difference(a, c),
        "left_alone": difference(c, denoise(policy)),
        "ratio_error": error,
    }


UNET = part("hero_core.tiny.unet").UNET_CONFIG
WIDTH = UNET["model_channels"] * UNET["channel_mult"][-1]


class _Nudge(comfy.controlnet.ControlBase):
    """The smallest ControlNet: adds a constant in the middle of the UNet."""

    def get_control(self, x_noisy: Tensor, t: Any, cond: Any, batched_number: int, *_: Any) -> dict:
        nudge = 0.5 * torch.ones(len(x_noisy), WIDTH, x_noisy.shape[2] // 4, x_noisy.shape[3] // 4)
        return {"input": [], "middle": [nudge], "output": []}

    def get_models(self) -> list:
        return []

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        pass

    def copy(self) -> Any:
        return self


def check_controlnet() -> dict[str, float]:
    """ControlNet conditioning changes the pictures and survives an update."""
    control = {"control": _Nudge(), "control_apply_to_uncond": True}
    positive = [[cond, {**options, **control}] for cond, options in encoded(PROMPT)]
    policy, plain = made_policy(positive=positive), made_policy()
    lora = trained(policy)
    controlled, without = drawn(policy, lora), drawn(plain, lora)
    error = ratio_error(policy, lora, controlled)
    return {
        "changed": difference(controlled.z_0, without.z_0),
        "ratio_error": error,
        "mixed": float(policy.mixed_sigmas),
    }


def check_fingerprint() -> dict[str, Any]:
    """What changes the fingerprint, and what does not."""
    halves = fresh_model()
    halves.model.diffusion_model.half()
    bf16 = fresh_model()
    bf16.model.diffusion_model.bfloat16()
    finetuned = fresh_model()
    generator = torch.Generator().manual_seed(0)
    for parameter in finetuned.model.diffusion_model.parameters():
        change = torch.randn(parameter.shape, generator=generator)
        parameter.data = parameter.data + 0.01 * parameter.data.std() * change
    base = made_policy()
    with_lora = policy_module.with_lora(base.model, trained(base))
    weaker, _ = comfy.sd.load_lora_for_models(base.model, None, {}, 1.0, 0.0)
    used = fresh_model()
    first = made_policy(used).fingerprint
    patched = policy_module.with_lora(made_policy(used).model, trained(base))
    euler(patched, torch.zeros(1, 4, 16, 16), base.sigmas(1, "simple"))
    return {
        "again": made_policy().fingerprint == base.fingerprint,
        "half": made_policy(halves).fingerprint == base.fingerprint,
        "bfloat16": made_policy(bf16).fingerprint == base.fingerprint,
        "no_patch": made_policy(weaker).fingerprint == base.fingerprint,
        "while_patched": made_policy(used).fingerprint == first,
        "finetuned": made_policy(finetuned).fingerprint == base.fingerprint,
        "with_lora": made_policy(with_lora).fingerprint == base.fingerprint,
        "prompt": made_policy(positive=encoded("photo of one red rose in a vase")).fingerprint == base.fingerprint,
        "size": made_policy(side=24).fingerprint == base.fingerprint,
    }


def check_refusals() -> dict[str, str]:
    """What cannot be trained is refused with a sentence when the policy is made."""
    quantised = fresh_model()
    layer = next(m for n, m in quantised.model.diffusion_model.named_modules() if n.endswith("attn1.to_q"))
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    cases = {
        "fp8": lambda: made_policy(quantised),
        "batch": lambda: made_policy(positive=[[encoded(PROMPT)[0][0].repeat(3, 1, 1), {}]]),
        "mask": lambda: policy_module.ComfyPolicy(
            fresh_model(), encoded(PROMPT), encoded(""), {**latent(), "noise_mask": torch.ones(1, 128, 128)}
        ),
        "video": lambda: policy_module.ComfyPolicy(
            fresh_model(), encoded(PROMPT), encoded(""), {"samples": torch.zeros(1, 4, 3, 16, 16)}
        ),
    }
    answers = {}
    for name, make in cases.items():
        try:
            make()
            answers[name] = "accepted"
        except HeroError as error:
            answers[name] = str(error)
    return answers


def check_flow_model() -> dict[str, Any]:
    """A flow model (the sampling of SD3 put on the tiny UNet) is seen as one, and its update starts at ratio 1."""
    model = fresh_model()

    class Sampling(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        pass

    sampling = Sampling()
    sampling.set_parameters(shift=3.0)
    model.add_object_patch("model_sampling", sampling)
    policy = made_policy(model)
    lora = trained(policy)
    round = drawn(policy, lora)
    error = ratio_error(policy, lora, round)
    return {"flow": policy.flow, "sigma_max": float(round.sigmas[0]), "ratio_error": error}


class _SmallSDXL(comfy.supported_models.SDXL):
    """SDXL in everything but width: linear projections, two blocks a transformer, pooled text and size conditioning."""

    unet_config = {  # noqa: RUF012
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 1, 1, 2, 2], "transformer_depth_middle": 2,
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2], "num_heads": -1, "num_head_channels": 32,
        "context_dim": 64, "use_spatial_transformer": True, "use_linear_in_transformer": True,
        "use_temporal_attention": False, "adm_in_channels": 2816, "num_classes": "sequential", "legacy": False,
    }  # fmt: skip
    unet_extra_config: dict = {}  # noqa: RUF012


def check_sdxl() -> dict[str, Any]:
    """A round, an update and a LoRA file on an SDXL-shaped model, with its pooled conditioning."""
    config = _SmallSDXL(_SmallSDXL.unet_config)
    config.set_inference_dtype(torch.float32, None)
    torch.manual_seed(0)
    base = config.get_model({}, device=torch.device("cpu"))
    for parameter in base.diffusion_model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    model = comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))
    positive = [[torch.randn(1, 77, 64), {"pooled_output": torch.randn(1, 1280), "width": 1024, "height": 1024}]]
    negative = [[torch.randn(1, 77, 64), {"pooled_output": torch.randn(1, 1280)}]]
    policy = policy_module.ComfyPolicy(model, positive, negative, latent())
    lora = trained(policy)
    round = drawn(policy, lora)
    paths = core_lora.lora_paths(lora.weights)
    keys = list(policy.lora_keys(paths).values())
    return {
        "ratio_error": ratio_error(policy, lora, round),
        "mixed": policy.mixed_sigmas,
        "patched": len(policy_module.with_lora(policy.model, lora).patches),
        "modules": len(keys),
        "kohya": keys == [core_lora.kohya_key(path, base.model_config.unet_config) for path in paths],
        "finite": bool(round.z_0.isfinite().all()),
    }


def check_tiny_against_standalone() -> dict[str, float]:
    """The host's UNet, text encoder and VAE with the tiny weights compute what the pack's own classes compute."""
    own = tiny_model.load_tiny()
    context = own.encode_prompt(PROMPT)
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2)) * 3
    sigma = torch.full((2,), 3.0)
    policy = made_policy()
    theirs = policy.run(lambda a: a.denoise(x, sigma), lora=untrained(policy), rows=2, grad=False, cfg=1.0)
    decoded = tiny.vae(WEIGHTS["vae"]).decode(host.finished_latent(policy.model, x / 3)["samples"])
    return {
        "text": difference(context, encoded(PROMPT)[0][0]),
        "denoise": difference(own.denoise(x, sigma, context), theirs),
        "decode": difference(own.decode(x / 3).movedim(1, -1), decoded),
        "sigmas": max(difference(own.sigmas(20, s), policy.sigmas(20, s)) for s in ("normal", "simple", "karras")),
    }


def check_tiny_flow_against_standalone() -> dict[str, Any]:
    """The same of the model that flows, in the host's class of Lumina 2, with its noise levels and its LoRA's names."""
    own, clip = tiny_model.load_tiny(kind="flow"), tiny.clip(FLOW_WEIGHTS["text"], "flow")
    prompted, empty = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (PROMPT, ""))
    policy = policy_module.ComfyPolicy(tiny.flow_model(FLOW_WEIGHTS["dit"]), prompted, empty, latent())
    context, sigma = own.encode_prompt(PROMPT), torch.tensor([0.9, 0.3])
    x, u = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2)), torch.tensor([0.0, 0.5, 1.0])
    body = lambda a: [a.denoise(x, sigma, "positive"), a.initial(x, 0.9), a.final(x)]  # noqa: E731
    theirs = policy.run(body, lora=untrained(policy), rows=2, grad=False, cfg=5.0)
    asked = zip([own.denoise(x, sigma, context), own.initial(x, 0.9), x], theirs, strict=True)
    paths = core_lora.lora_paths(untrained(policy).weights)
    return {
        "flow": [policy.flow, own.flow],
        "text": difference(context, prompted[0][0]),
        "asked": [difference(a, b) for a, b in asked],
        "sigmas": [difference(own.sigmas(n, s), policy.sigmas(n, s))
                   for s in ("normal", "simple", "karras") for n in (1, 7, 20)],
        "times": difference(own.train_sigmas[(u * 999).round().long()], policy.training_sigma(u)),
        "names": policy.lora_keys(paths),
    }  # fmt: skip


def check_prompt_weights() -> dict[str, float]:
    """``(blue:1.4)`` pulls the context away from the unweighted one; weight 1 does not."""
    words = ("blue", "(blue:1.4)", "(blue:1.0)")
    plain, strong, one = (encoded(f"photo of one {word} rose in a vase")[0][0] for word in words)
    return {"strong": difference(plain, strong), "one": difference(plain, one)}


@torch.inference_mode()
def main() -> None:
    results: dict[str, Any] = {}
    for name, check in list(globals().items()):
        if name.startswith("check_") and (not NAMES or name.removeprefix("check_") in NAMES):
            try:
                results[name.removeprefix("check_")] = check()
            except Exception:
                results[name.removeprefix("check_")] = {"error": traceback.format_exc()}
    OUT.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
