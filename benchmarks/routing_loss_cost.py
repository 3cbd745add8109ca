"""What the routing and placeholder losses add to a training step (the paper: at most 20 %).

    python3 scripts/host.py exec benchmarks/routing_loss_cost.py

Steps with and without them take turns in one run, on a transformer of random weights. Printed are medians and their
ratio, for all blocks and for every fourth, with and without gradient checkpointing, and what references cost.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from diffusers import FluxTransformer2DModel

from dreamo_core.training.model import DreamOTransformer

HEADS, HEAD = 8, 64


def build(probed, checkpointing: bool, double: int, single: int) -> DreamOTransformer:
    torch.manual_seed(0)
    base = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=double, num_single_layers=single, attention_head_dim=HEAD,
        num_attention_heads=HEADS, joint_attention_dim=256, pooled_projection_dim=64, guidance_embeds=True,
        axes_dims_rope=(8, 28, 28),
    )  # fmt: skip
    if checkpointing:
        base.enable_gradient_checkpointing()
    return DreamOTransformer(base, 32, probed, placeholder_width=256)


def step(model: DreamOTransformer, side: int, references: int, text: int, with_losses: bool) -> float:
    """Seconds of one forward and backward."""
    noisy, refs = torch.randn(1, 16, side, side), [torch.randn(1, 16, side // 2, side // 2) for _ in range(references)]
    positions = torch.arange(references)[None] if with_losses and references else None
    started = time.perf_counter()
    out = model(
        noisy, torch.rand(1), torch.randn(1, text, 256), torch.randn(1, 64), torch.ones(1), refs, None, positions
    )
    loss = out.velocity.square().mean()
    if out.maps is not None:
        loss = loss + out.maps.square().mean() + out.mistakes.mean()
    loss.backward()
    return time.perf_counter() - started


def compare(one, other, rounds: int) -> tuple[float, float]:
    """Medians of two kinds of step that take turns."""
    one(), other()
    times = [(one(), other()) for _ in range(rounds)]
    return statistics.median(a for a, _ in times), statistics.median(b for _, b in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--side", type=int, default=32, help="of the latent; a quarter of its square are tokens")
    parser.add_argument("--double", type=int, default=3)
    parser.add_argument("--single", type=int, default=6)
    arguments = parser.parse_args()
    blocks = arguments.double + arguments.single
    tokens = arguments.side**2 // 4
    print(
        f"{blocks} blocks of width {HEADS * HEAD}, {tokens} image tokens, two references of "
        f"{tokens // 4}, 128 text tokens"
    )
    for checkpointing in (False, True):
        for name, probed in (("all blocks", None), ("every 4th", list(range(0, blocks, 4)))):
            model = build(probed, checkpointing, arguments.double, arguments.single)
            plain, routed = compare(
                lambda m=model: step(m, arguments.side, 2, 128, False),
                lambda m=model: step(m, arguments.side, 2, 128, True), arguments.rounds,
            )  # fmt: skip
            how = "checkpointing" if checkpointing else "no checkpointing"
            print(f"losses on {name:10} {how:17} {plain:.3f} s -> {routed:.3f} s, ratio {routed / plain:.3f}")
    model = build([], False, arguments.double, arguments.single)
    alone, two = compare(
        lambda: step(model, arguments.side, 0, 128, False), lambda: step(model, arguments.side, 2, 128, False),
        arguments.rounds,
    )  # fmt: skip
    print(f"references: none {alone:.3f} s, two {two:.3f} s, ratio {two / alone:.3f}")


if __name__ == "__main__":
    main()
