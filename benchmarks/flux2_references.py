#!/usr/bin/env python3
"""FLUX.2's references: plain : full : the host's FluxKVCache : DreamO Speed, time and error, side by side in one run.

    python3 scripts/host.py exec benchmarks/flux2_references.py                            klein's width, two blocks
    python3 scripts/host.py exec benchmarks/flux2_references.py --device cuda --full       klein 4B's size, random

Weights are random, of FLUX.2-klein-4B's width. Times are of whole runs of four steps, divided by that of plain ones
(no references) measured in the same round; the median over rounds. Errors are the difference of the latent to that of
full references, as a part of what leaving the references out changes. *constant* keeps keys and values between runs,
so its first run with new pictures and its further ones are measured apart. The host's cache is there on hosts that have
it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from boot import boot

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
parser.add_argument("--full", action="store_true", help="klein 4B's 5 double and 20 single blocks, 1024² pictures")
parser.add_argument("--rounds", type=int, default=1)
parser.add_argument("--references", type=int, nargs="+", default=[1, 2, 4])
parser.add_argument("--hidden", type=int, default=3072)
parser.add_argument("--side", type=int, default=None, help="of picture and references in tokens of 16 pixels")
parser.add_argument("--steps", type=int, default=4)
ARGS = parser.parse_args()
boot(cpu=ARGS.device != "cuda")

import comfy_extras.nodes_flux as host_nodes  # noqa: E402
import nodes  # noqa: E402
import torch  # noqa: E402
from comfy_extras.nodes_edit_model import ReferenceLatent  # noqa: E402
from dreamo_routed.dreamo_core.host.reuse import with_policy  # noqa: E402
from dreamo_routed.dreamo_core.reuse.constant import ConstantStore  # noqa: E402
from dreamo_routed.dreamo_core.reuse.policy import PRESETS, ReusePolicy  # noqa: E402
from dreamo_routed.minidreamo.host.small_models import small_flux2  # noqa: E402

SIDE = ARGS.side or (64 if ARGS.full else 12)
GPU = ARGS.device == "cuda"


def klein() -> Any:
    depth = {"depth": 5, "depth_single_blocks": 20} if ARGS.full else {"depth": 1, "depth_single_blocks": 1}
    sizes = {"hidden_size": ARGS.hidden, "num_heads": ARGS.hidden // 128, "axes_dim": [32] * 4, "context_in_dim": 256}
    return small_flux2(dtype=torch.bfloat16 if GPU else torch.float32, **depth, **sizes)


def conditioning(count: int, seed: int = 0) -> list:
    draw = lambda *shape, n: torch.randn(shape, generator=torch.Generator().manual_seed(n))  # noqa: E731
    result = [[draw(1, 512, 256, n=seed), {}]]
    for n in range(count):
        result = ReferenceLatent.execute(result, {"samples": draw(1, 128, SIDE, SIDE, n=50 + n)}).result[0]
    return result


def run(model: Any, count: int, seed: int = 1) -> tuple[float, torch.Tensor]:
    """Seconds of a run, and its latent."""
    latent = {"samples": torch.zeros(1, 128, SIDE, SIDE)}
    started = time.perf_counter() if GPU else time.process_time()
    with torch.no_grad():
        text = conditioning(count)
        out = nodes.common_ksampler(model, seed, ARGS.steps, 1.0, "euler", "simple", text, text, latent)[0]["samples"]
    if GPU:
        torch.cuda.synchronize()
    return (time.perf_counter() if GPU else time.process_time()) - started, out


def variants(model: Any) -> dict[str, Callable[[], Any]]:
    """What is measured, in this order: a name, and what makes the model of a run."""
    store = ConstantStore(None, 2**40)
    speed = lambda policy, *store: lambda: with_policy(model, policy, *store)  # noqa: E731
    host = {"full": lambda: model}
    if hasattr(host_nodes, "FluxKVCache"):
        host["host's FluxKVCache"] = lambda: host_nodes.FluxKVCache.execute(model).result[0]
    return host | {
        "Speed, refreshed once": speed(ReusePolicy(refresh="never")),
        "Speed, balanced": speed(PRESETS["balanced"]),
        "Speed, half of the tokens kept": speed(ReusePolicy(keep_share=0.5)),
        "Speed, constant, first run": speed(PRESETS["constant"], store),
        "Speed, constant, further runs": speed(PRESETS["constant"], store),
    }


def main() -> None:
    model = klein()
    run(model, 0)  # warm
    print(f"torch {torch.__version__}, {ARGS.device}, width {ARGS.hidden}, {SIDE}×{SIDE} tokens, {ARGS.steps} steps\n")
    print("| references | | × plain | error | peak |\n| --- | --- | --- | --- | --- |")
    for count in ARGS.references:
        ratios: dict[str, list[float]] = {}
        for _ in range(ARGS.rounds):
            plain_seconds, plain = run(model, 0)
            found, peaks = {}, {}
            for name, make in variants(model).items():
                if GPU:
                    torch.cuda.reset_peak_memory_stats()
                seconds, found[name] = run(make(), count)
                ratios.setdefault(name, []).append(seconds / plain_seconds)
                peaks[name] = f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB" if GPU else ""
        effect = (plain - found["full"]).norm()
        for name, latent in found.items():
            error = 100 * ((latent - found["full"]).norm() / effect)
            print(
                f"| {count} | {name} | {statistics.median(ratios[name]):.2f} | {error:.1f} % | {peaks[name]} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
