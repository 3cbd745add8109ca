"""Masks of RealCustom where the answer is known: which attention finds a subject, as a table over seeds.

    python3 scripts/host.py exec benchmarks/realcustom_masks.py [--seeds N]

A constructed model, nothing trained: two discs on a 32 × 32 grid are the subjects, and queries and keys are made so
that the layers are as the paper describes them. Coarse cross-attention (8 × 8) knows the word's place but not its edge,
fine cross-attention (32 × 32) is noisy, and fine self-attention attends to what belongs together. It shows that the
code combines them as the paper says; how well a trained SDXL's layers fit that picture is not measured here.
"""

from __future__ import annotations

import argparse
import statistics
import zlib

import torch
from boot import boot

FINE, COARSE, HEADS, WIDTH, TOKENS = 32, 8, 4, 64, 12
WORDS = ((3, 4), (8,))
CENTRES = ((0.3, 0.35), (0.7, 0.65))
RADIUS = 0.2


def truth(side: int) -> torch.Tensor:
    """Both discs: (2, side²) in [0, 1], the covered part of each cell."""
    at = (torch.arange(4 * side) + 0.5) / (4 * side)
    discs = [((at[:, None] - y) ** 2 + (at[None] - x) ** 2 <= RADIUS**2).float() for y, x in CENTRES]
    return torch.nn.functional.avg_pool2d(torch.stack(discs), 4).flatten(1)


def layer(place, side: int, seed: int, noise: float):
    """(q, k of the text, q and k of the image) for one block, (1, n, heads · d) each."""
    generator = torch.Generator().manual_seed(seed * 1000 + zlib.crc32(place.name.encode()) % 997)
    draw = lambda *shape: torch.randn(1, *shape, WIDTH, generator=generator)  # noqa: E731
    words, kinds, covered = draw(TOKENS), draw(3), truth(side)
    q = noise * draw(side * side)
    for at, disc in zip(WORDS, covered, strict=True):
        q = q + 0.6 * disc[None, :, None] * words[:, at].mean(1, keepdim=True)
    weights = torch.cat((covered, (1 - covered.sum(0, keepdim=True)).clamp(min=0)))
    seen = weights.T @ kinds[0]
    return q, words, seen[None] + noise * draw(side * side), seen[None] + noise * draw(side * side)


def found(source, seed: int, gamma: float, norm: bool | None = None):
    """Masks (1, 2, n) of a source on the constructed layers."""
    from dreamo_routed.dreamo_core.realcustom.masks import masks_from_maps
    from dreamo_routed.dreamo_core.realcustom.reading import AttentionPlace, Reader, chosen_layers

    places = [AttentionPlace((name, n, 0), f"{name}{n}", factor)
              for name in ("input", "output") for n, factor in enumerate((2, 2, 8, 8))]  # fmt: skip
    layers = chosen_layers(places, source)
    reader = Reader(WORDS, source, layers, (FINE, FINE), attention)
    for place in places:
        side = FINE if place.factor == 2 else COARSE
        q, k, own_q, own_k = layer(place, side, seed, noise=0.9 if side == FINE else 0.3)
        reader.cross(place.key, q, k, HEADS, (side, side))
        reader.own(place.key, own_q, own_k, HEADS, (side, side))
    return masks_from_maps(reader.maps(), [gamma] * 2, True, source.norm if norm is None else norm)


def attention(q, k, v, heads):
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def overlap(masks: torch.Tensor) -> float:
    """Mean IoU of both subjects with their discs."""
    right, own = truth(FINE) >= 0.5, masks[0] > 0
    both, either = (right & own).sum(-1), (right | own).sum(-1)
    return float((both / either).mean())


def sources() -> dict:
    from dreamo_routed.dreamo_core.realcustom.settings import SOURCES, MaskSource

    return {
        "released: all cross": SOURCES["released"],
        "all cross, not stretched": MaskSource("all", "none", stretched=False, norm=True),
        "coarse cross": MaskSource("low", "none", stretched=False, norm=True),
        "coarse cross × coarse self": MaskSource("low", "low", stretched=False, norm=True),
        "coarse cross × all self": MaskSource("low", "all", stretched=False, norm=True),
        "paper: coarse cross × fine self": SOURCES["paper"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    args = parser.parse_args()
    boot(cpu=True)
    room = float((truth(FINE)[0] >= 0.5).float().mean())
    print(f"IoU of found masks with two discs, gamma {room:.3f} (their size), {args.seeds} seeds: mean (least to most)")
    for name, source in sources().items():
        values = [overlap(found(source, seed, room)) for seed in range(args.seeds)]
        print(f"{name:<34} {statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
    print("Largest influence of a mask from the paper's source, mean over seeds:")
    for norm in (True, False):
        values = [
            float(found(sources()["paper: coarse cross × fine self"], s, room, norm).amax()) for s in range(args.seeds)
        ]
        print(f"  {'with' if norm else 'without'} max normalisation (Eq. 15)  {statistics.mean(values):.3f}")


if __name__ == "__main__":
    with torch.no_grad():
        main()
