#!/usr/bin/env python3
"""What references cost: plain Flux : full references : pruned : reuse : both, measured side by side in one run.

    python3 scripts/host.py exec benchmarks/reference_cost.py                 on the CPU: single steps, a few blocks
    python3 scripts/host.py exec benchmarks/reference_cost.py --device cuda   FLUX.1-dev's full size, 12-step runs

Weights are random and of FLUX.1-dev's width (3072, 24 heads). Each figure is the median over rounds of a time divided
by that of plain steps measured beside it. On the CPU the time is that of one thread, so that other work on the machine
does not count, and the tokens are those of a smaller picture in the proportions of 1024² with 512 text tokens and 512²
references; attention then weighs less than at full size, which the expected figures take into account.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from boot import boot

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
parser.add_argument("--machine", default=None, help="how to name the machine in the table")
parser.add_argument("--rounds", type=int, default=1)
parser.add_argument("--references", type=int, nargs="+", default=[1, 3, 6])
parser.add_argument("--double", type=int, default=None, help="double blocks (1 on the CPU, 19 on a GPU)")
parser.add_argument("--single", type=int, default=None, help="single blocks (2 on the CPU, 38 on a GPU)")
parser.add_argument("--hidden", type=int, default=3072)
ARGS = parser.parse_args()
ON_GPU = ARGS.device == "cuda"
boot(cpu=not ON_GPU)

import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.samplers  # noqa: E402
import torch  # noqa: E402
from dreamo_routed.dreamo_core.host.conditioning import attach_references  # noqa: E402
from dreamo_routed.dreamo_core.host.flux import with_references  # noqa: E402
from dreamo_routed.dreamo_core.host.reuse import reference_tokens, shape_of, with_policy  # noqa: E402
from dreamo_routed.dreamo_core.pictures.picture import Picture  # noqa: E402
from dreamo_routed.dreamo_core.reuse import cost  # noqa: E402
from dreamo_routed.dreamo_core.reuse.cache import ReferenceCache  # noqa: E402
from dreamo_routed.dreamo_core.reuse.policy import PRESETS, ReusePolicy  # noqa: E402
from dreamo_routed.dreamo_core.run.run import RUN_KEY  # noqa: E402
from dreamo_routed.dreamo_core.sampling.apply_model import CONDITIONING_KEY  # noqa: E402
from dreamo_routed.dreamo_core.sequence.embeddings import Embeddings  # noqa: E402
from dreamo_routed.dreamo_core.sequence.reference import Reference  # noqa: E402
from dreamo_routed.minidreamo.host.small_models import FLUX_CONFIG, make_flux  # noqa: E402

# Height and width of the latent, and text tokens: 1024² and 512, or the same proportions at an eighth of the tokens.
IMAGE, TEXT = ((128, 128), 512) if ON_GPU else ((48, 40), 60)
REFERENCE = (64, 64) if ON_GPU else (24, 20)
STEPS = 12
REFRESHES = 2
"""Of the 12 steps; what the balanced preset does."""


def flux() -> Any:
    """A Flux of FLUX.1-dev's width with random weights, made where it runs."""
    heads = ARGS.hidden // 128
    config = {
        **FLUX_CONFIG, "hidden_size": ARGS.hidden, "num_heads": heads, "axes_dim": [16, 56, 56],
        "context_in_dim": 4096, "vec_in_dim": 768,
        "depth": ARGS.double or (19 if ON_GPU else 1), "depth_single_blocks": ARGS.single or (38 if ON_GPU else 2),
    }  # fmt: skip
    device = comfy.model_management.get_torch_device()
    model = make_flux(config, torch.bfloat16 if ON_GPU else torch.float32, device=device)
    torch.manual_seed(0)
    for name, parameter in model.diffusion_model.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=parameter[0].numel() ** -0.5)
        else:
            parameter.data.fill_(1.0 if "_norm." in name else 0.0)
    return comfy.model_patcher.ModelPatcher(model, device, device)


def half_a_mask() -> torch.Tensor:
    """White over the upper half of a reference's pixels."""
    mask = torch.zeros(1, REFERENCE[0] * 8, REFERENCE[1] * 8)
    mask[:, : mask.shape[1] // 2] = 1
    return mask


def conditioning(count: int) -> list:
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    embeddings = Embeddings(draw(2, ARGS.hidden) * 0.1, draw(10, ARGS.hidden) * 0.1)
    picture = Picture(torch.ones(1, REFERENCE[0] * 8, REFERENCE[1] * 8, 3), half_a_mask())
    references = tuple(Reference(picture, draw(1, 16, *REFERENCE), "subject") for _ in range(count))
    plain = [[draw(1, TEXT, 4096), {"pooled_output": draw(1, 768), "guidance": 3.5}]]
    return attach_references(plain, references, embeddings)


@dataclass(frozen=True)
class Measured:
    """Seconds of each call, peak bytes of the device, bytes of the store, and the latent."""

    seconds: list[float]
    peak: int = 0
    store: int = 0


def measure(model: Any, positive: list, settings: ReusePolicy, sigmas: list[float]) -> Measured:
    """Time model calls inside one of the host's own sampling runs, one call for each noise level."""
    seconds, store = [], 0

    def steps(model_call: Callable, x: torch.Tensor, schedule: torch.Tensor, extra_args: dict, *_: Any) -> torch.Tensor:
        nonlocal store
        for sigma in schedule[:-1]:
            started = now()
            denoised = model_call(x, sigma * x.new_ones(x.shape[0]), **extra_args)
            seconds.append(now() - started)
            # A step of Euler's, so that the noise level and the picture move as they do in a run.
            x = x + (x - denoised) / sigma * (schedule[len(seconds)] - sigma)
            run = extra_args["model_options"]["transformer_options"][RUN_KEY]
            store = max(store, run.part("reuse", lambda: ReferenceCache(settings)).nbytes)
        return x

    guider = comfy.samplers.CFGGuider(with_policy(model, settings))
    guider.set_conds(positive, [])
    sampler = comfy.samplers.KSAMPLER(lambda m, x, s, extra_args, callback, disable: steps(m, x, s, extra_args))
    latent = torch.zeros(1, 16, *IMAGE)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(2))
    gc.collect()
    if ON_GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        guider.sample(noise, latent, sampler, torch.tensor(sigmas), seed=0)
    return Measured(seconds, torch.cuda.max_memory_allocated() if ON_GPU else 0, store)


def now() -> float:
    """Seconds: of the wall clock once a GPU is done, or that this process has computed."""
    if ON_GPU:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


PRUNE = ReusePolicy(prune=True, margin=0)
REUSE = ReusePolicy(refresh="every n steps", interval=STEPS // REFRESHES)
BOTH = replace(PRUNE, refresh=REUSE.refresh, interval=REUSE.interval)
VARIANTS = {"full": ReusePolicy(), "pruned": PRUNE, "reuse": REUSE, "both": BOTH}


def schedule(steps: int) -> list[float]:
    return [1 - n / steps for n in range(steps + 1)]


def row(model: Any, count: int) -> tuple[dict[str, list[float]], dict[str, Measured]]:
    """For each variant its figures in plain steps: the mean of a 12-step run, or [refresh, reuse] of single steps."""
    positive, plain = conditioning(count), conditioning(0)
    sigmas = schedule(STEPS) if ON_GPU else schedule(STEPS)[:3]
    figures: dict[str, list[list[float]]] = {}
    last: dict[str, Measured] = {}
    for _ in range(ARGS.rounds):
        base = measure(model, plain, ReusePolicy(), sigmas)
        for name, settings in VARIANTS.items():
            calls = sigmas if ON_GPU or settings.reuses else sigmas[:2]
            last[name] = measure(model, positive, settings, calls)
            last["plain"] = base
            unit = statistics.mean(base.seconds)
            if ON_GPU:
                figures.setdefault(name, []).append([statistics.mean(last[name].seconds) / unit])
            else:
                figures.setdefault(name, []).append([seconds / unit for seconds in last[name].seconds])
    medians = {name: [statistics.median(f) for f in zip(*rounds, strict=True)] for name, rounds in figures.items()}
    return medians, last


def mean_of_run(name: str, figures: dict[str, list[float]]) -> float:
    """Plain steps that a step of a 12-step run costs."""
    found = figures[name]
    return found[0] if len(found) == 1 else (found[0] * REFRESHES + found[1] * (STEPS - REFRESHES)) / STEPS


def main() -> None:
    if not ON_GPU:
        torch.set_num_threads(1)
    model = with_references(flux())
    shape = shape_of(model)
    blocks = model.get_model_object("diffusion_model")
    image = IMAGE[0] * IMAGE[1] // 4
    machine = ARGS.machine or (torch.cuda.get_device_name() if ON_GPU else f"one of {os.cpu_count()} CPU cores")
    print(
        f"Machine: {machine}. {len(blocks.double_blocks)} double and {len(blocks.single_blocks)} single blocks, hidden "
        f"size {shape.hidden}, {'bf16' if ON_GPU else 'fp32'}, {image} image tokens, {TEXT} text tokens, "
        f"{REFERENCE[0] * REFERENCE[1] // 4} tokens a reference, half of them pruned where pruned; mean step of "
        f"{STEPS}, {REFRESHES} of them refreshed, in plain steps; in brackets what the cost model expects.\n"
    )
    measure(model, conditioning(0), ReusePolicy(), schedule(STEPS)[:2])  # warm up
    store_name = "peak memory, plain = 1" if ON_GPU else "store of both"
    columns = ["references", "plain", *VARIANTS, "one reuse step, both", store_name]
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns), flush=True)
    for count in ARGS.references:
        figures, last = row(model, count)
        cells = [str(count), "1"]
        for name, settings in VARIANTS.items():
            entry = conditioning(count)[0][1]
            kept = reference_tokens(entry["model_conds"][CONDITIONING_KEY].cond, entry["reference_latents"], settings)
            tokens = cost.Tokens(TEXT, image, kept)
            refreshed = REFRESHES if settings.reuses else STEPS
            expected = cost.run_ratio(shape, tokens, STEPS, refreshed)
            cells.append(f"{mean_of_run(name, figures):.2f} ({expected:.2f})")
        reuse_step = "" if ON_GPU else f"{figures['both'][1]:.2f} ({cost.reuse_ratio(shape, tokens):.2f})"
        peak = {name: f"{found.peak / last['plain'].peak:.2f}" for name, found in last.items()} if ON_GPU else {}
        memory = (
            ", ".join(f"{n} {p}" for n, p in peak.items() if n != "plain") or f"{last['both'].store / 2**20:.0f} MiB"
        )
        print("| " + " | ".join([*cells, reuse_step, memory]) + " |", flush=True)
    full_size = cost.Tokens(512, 4096, 3 * 1024)
    refresh, reuse = cost.refresh_ratio(cost.FLUX_DEV, full_size), cost.reuse_ratio(cost.FLUX_DEV, full_size)
    print(
        f"\nAt full size (FLUX.1-dev, 1024², 512 text tokens, three 512² references) the cost model expects: full "
        f"{refresh:.2f}, reuse step {reuse:.2f}; "
        + "; ".join(f"{name} {expected_preset(name):.2f}" for name in PRESETS)
        + " (balanced and fast with half of the reference tokens pruned)."
    )


def expected_preset(name: str) -> float:
    settings = PRESETS[name]
    references = 3 * 1024 // 2 if settings.prune else 3 * 1024
    refreshed = cost.refreshes(settings, schedule(STEPS))
    return cost.run_ratio(cost.FLUX_DEV, cost.Tokens(512, 4096, references), STEPS, refreshed)


if __name__ == "__main__":
    main()
