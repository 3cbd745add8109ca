"""What the routing and placeholder losses add to a training step (the paper: at most 20 %).

    python3 scripts/host.py exec benchmarks/routing_loss_cost.py [--rounds N] [--small]

One double and one single block of FLUX.1's true width (3072, 24 heads of 128), LoRA rank 128, random weights, fp32, on
256 image, 2 × 64 reference and 64 text tokens: forward and backward of a step, with the losses on every block and
without, in turn, in one run; and what the losses take by themselves, which a busy machine disturbs less. Both are
linear in tokens like most of the step, so fewer tokens than in training change the ratio little. Then a step with
gradient checkpointing against a forward alone, which the expected cost in the README rests on. On one thread in CPU
seconds: time given to others does not count.

`--small` takes 3 + 6 narrow blocks instead, and also says what checkpointing, every fourth block, and references do.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from diffusers import FluxTransformer2DModel

from dreamo_core.training import losses
from dreamo_core.training.model import DreamOTransformer, Prediction, Probe


@dataclass(frozen=True)
class Size:
    """Of a transformer and its sequence; `side` of the latent, a quarter of its square are image tokens."""

    double: int
    single: int
    heads: int
    head: int
    axes: tuple[int, int, int]
    text_width: int
    rank: int
    side: int
    text: int

    @property
    def image(self) -> int:
        return self.side**2 // 4


TRUE = Size(1, 1, 24, 128, (16, 56, 56), 4096, 128, 32, 64)
SMALL = Size(3, 6, 8, 64, (8, 28, 28), 256, 32, 32, 128)
REFERENCES = 2


def build(size: Size, probed: list[int] | None, checkpointing: bool = False) -> DreamOTransformer:
    torch.manual_seed(0)
    base = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=size.double, num_single_layers=size.single,
        attention_head_dim=size.head, num_attention_heads=size.heads, joint_attention_dim=size.text_width,
        pooled_projection_dim=64, guidance_embeds=True, axes_dims_rope=size.axes,
    )  # fmt: skip
    if checkpointing:
        base.enable_gradient_checkpointing()
    return DreamOTransformer(base, size.rank, probed, placeholder_width=size.text_width)


def predict(model: DreamOTransformer, size: Size, references: int, with_losses: bool) -> Prediction:
    """One forward."""
    side = size.side
    noisy, refs = torch.randn(1, 16, side, side), [torch.randn(1, 16, side // 2, side // 2) for _ in range(references)]
    positions = torch.arange(references)[None] if with_losses and references else None
    text, pooled = torch.randn(1, size.text, size.text_width), torch.randn(1, 64)
    return model(noisy, torch.rand(1), text, pooled, torch.ones(1), refs, None, positions)


def step(model: DreamOTransformer, size: Size, references: int, with_losses: bool) -> None:
    """One forward and backward."""
    out = predict(model, size, references, with_losses)
    loss = out.velocity.square().mean()
    if out.maps is not None:
        loss = loss + losses.routing_errors(out.maps, torch.rand(out.maps.shape)).mean() + out.mistakes.mean()
    loss.backward()


def losses_alone(size: Size) -> Callable[[], None]:
    """Eq. 2 to 4 of one block from its queries and keys, and back to them."""
    one = size.image // 4
    length = size.text + size.image + REFERENCES * one
    queries, keys = (torch.randn(1, length, size.heads, size.head, requires_grad=True) for _ in range(2))
    begin = size.text + size.image
    spans = [(begin + n * one, begin + (n + 1) * one) for n in range(REFERENCES)]

    def call() -> None:
        probe = Probe(size.text, size.image, spans, torch.arange(REFERENCES)[None])
        probe.read(queries, keys)
        errors = losses.routing_errors(probe.maps[0], torch.rand(probe.maps[0].shape))
        torch.autograd.grad(errors.mean() + probe.mistakes[0].mean(), (queries, keys))

    return call


def medians(rounds: int, *calls: Callable[[], None]) -> list[float]:
    """CPU seconds of calls that take turns; the first round only warms up."""
    times: list[list[float]] = [[] for _ in calls]
    for n in range(rounds + 1):
        for call, found in zip(calls, times, strict=True):
            started = time.process_time()
            call()
            if n:
                found.append(time.process_time() - started)
    return [statistics.median(found) for found in times]


def report_true(rounds: int) -> None:
    model, blocks = build(TRUE, None), TRUE.double + TRUE.single
    print(f"{blocks} blocks of width {TRUE.heads * TRUE.head}, {TRUE.image} image tokens, {REFERENCES} references of "
          f"{TRUE.image // 4}, {TRUE.text} text tokens, rank {TRUE.rank}")  # fmt: skip

    def checkpointed() -> None:
        model.transformer.enable_gradient_checkpointing()
        step(model, TRUE, REFERENCES, True)
        model.transformer.disable_gradient_checkpointing()

    @torch.no_grad()
    def forward() -> None:
        predict(model, TRUE, REFERENCES, True)

    plain, routed, again, once = medians(
        rounds, lambda: step(model, TRUE, REFERENCES, False), lambda: step(model, TRUE, REFERENCES, True),
        checkpointed, forward,
    )  # fmt: skip
    print(f"a step {plain:.2f} s, with the losses {routed:.2f} s: ratio {routed / plain:.4f}")
    print(f"with checkpointing too {again:.2f} s, a forward alone {once:.2f} s: ratio {again / once:.2f}")
    (alone,) = medians(max(9, rounds), losses_alone(TRUE))
    print(f"the losses of {blocks} blocks by themselves {blocks * alone:.4f} s: {1 + blocks * alone / plain:.4f}")


def report_small(rounds: int) -> None:
    blocks = SMALL.double + SMALL.single
    print(f"{blocks} blocks of width {SMALL.heads * SMALL.head}, {SMALL.image} image tokens, {REFERENCES} references "
          f"of {SMALL.image // 4}, {SMALL.text} text tokens, rank {SMALL.rank}")  # fmt: skip
    for checkpointing in (False, True):
        for name, probed in (("all blocks", None), ("every 4th", list(range(0, blocks, 4)))):
            model = build(SMALL, probed, checkpointing)
            plain, routed = medians(
                rounds,
                lambda m=model: step(m, SMALL, REFERENCES, False),
                lambda m=model: step(m, SMALL, REFERENCES, True),
            )
            how = "checkpointing" if checkpointing else "no checkpointing"
            print(f"losses on {name:10} {how:17} {plain:.3f} s -> {routed:.3f} s, ratio {routed / plain:.3f}")
    model = build(SMALL, [])
    without, two = medians(rounds, lambda: step(model, SMALL, 0, False), lambda: step(model, SMALL, REFERENCES, False))
    print(f"references: none {without:.3f} s, two {two:.3f} s, ratio {two / without:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    (report_small if arguments.small else report_true)(arguments.rounds)


if __name__ == "__main__":
    main()
