#!/usr/bin/env python3
"""What cheaper references change: relative error of the final latent against full references, beside the spread
between seeds and the effect of the references themselves.

    python3 scripts/host.py exec benchmarks/reference_error.py

A small Flux with random weights (the host's classes), 12 steps, three references of a subject on white. Random weights
say how far approximations move a picture of such a network, not what a user of the trained one sees.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from boot import boot

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--weights", type=int, nargs="+", default=[0, 1], help="seeds of the weights")
ARGS = parser.parse_args()
boot(cpu=True)

import nodes  # noqa: E402
import torch  # noqa: E402
from dreamo_routed.dreamo_core.host.conditioning import attach_references  # noqa: E402
from dreamo_routed.dreamo_core.host.flux import with_dreamo_references  # noqa: E402
from dreamo_routed.dreamo_core.host.reuse import with_policy  # noqa: E402
from dreamo_routed.dreamo_core.host.vae import encode_reference  # noqa: E402
from dreamo_routed.dreamo_core.pictures.prepare import prepare_picture  # noqa: E402
from dreamo_routed.dreamo_core.reuse.policy import PRESETS, ReusePolicy  # noqa: E402
from dreamo_routed.dreamo_core.sequence.embeddings import Embeddings  # noqa: E402
from dreamo_routed.dreamo_core.sequence.reference import Reference  # noqa: E402
from dreamo_routed.minidreamo.host import small_models  # noqa: E402

STEPS, LATENT, RESOLUTION = 12, (32, 32), 128
MODEL = {"hidden_size": 256, "num_heads": 4, "axes_dim": [16, 24, 24], "depth": 4, "depth_single_blocks": 8}

POLICIES = {
    "refresh every 3 steps": ReusePolicy(refresh="every n steps", interval=3),
    "refresh every 6 steps": ReusePolicy(refresh="every n steps", interval=6),
    "sigma distance 0.3": ReusePolicy(refresh="sigma distance", sigma_distance=0.3),
    "sigma distance 0.45": ReusePolicy(refresh="sigma distance", sigma_distance=0.45),
    "drift 0.5": ReusePolicy(refresh="drift", drift=0.5),
    "never refresh": ReusePolicy(refresh="never"),
    "never refresh, fp8 store": ReusePolicy(refresh="never", store="fp8"),
    "prune, margin 1": ReusePolicy(prune=True, margin=1),
    "prune, margin 0": ReusePolicy(prune=True, margin=0),
    "prune, margin 0, keep 0.25": ReusePolicy(prune=True, margin=0, keep_ratio=0.25),
    **{f"preset {name}": settings for name, settings in PRESETS.items() if name != "exact"},
}


def subject(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A coloured, textured ellipse and its mask, at twice the resolution."""
    generator = torch.Generator().manual_seed(seed)
    side = RESOLUTION * 2
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    tilt = torch.rand(1, generator=generator).item()
    mask = ((rows / 0.8) ** 2 + ((columns - 0.3 * tilt * rows) / 0.5) ** 2 < 1).float()[None]
    texture = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16, generator=generator), side, mode="bicubic")
    return texture.clamp(0, 1).permute(0, 2, 3, 1), mask


def references() -> tuple[Reference, ...]:
    vae = small_models.small_vae()
    pictures = [prepare_picture(image, "subject", RESOLUTION, mask) for image, mask in map(subject, range(3))]
    return tuple(Reference(p, encode_reference(vae, p.pixels), "subject") for p in pictures)


def sample(model: Any, positive: list, seed: int) -> torch.Tensor:
    latent = {"samples": torch.zeros(1, 16, *LATENT)}
    with torch.inference_mode():
        out = nodes.common_ksampler(model, seed, STEPS, 1.0, "euler", "simple", positive, positive, latent)
    return out[0]["samples"]


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """‖a − b‖ / ‖b‖."""
    return ((a - b).norm() / b.norm()).item()


def main() -> None:
    torch.set_num_threads(1)
    chain = references()
    errors: dict[str, list[float]] = {name: [] for name in POLICIES}
    spread, effect = [], []
    for weights in ARGS.weights:
        model = small_models.small_flux(weights, **MODEL)
        generator = torch.Generator().manual_seed(100 + weights)
        draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: B023, E731
        text = [[draw(1, 32, 64), {"pooled_output": draw(1, 64), "guidance": 3.5}]]
        embeddings = Embeddings(draw(2, MODEL["hidden_size"]) * 0.5, draw(10, MODEL["hidden_size"]) * 0.5)
        patched, positive = with_dreamo_references(model, embeddings), attach_references(text, chain, embeddings)
        full = [sample(patched, positive, seed) for seed in range(ARGS.seeds)]
        spread += [distance(a, b) for a in full for b in full if a is not b]
        effect += [distance(sample(patched, text, seed), full[seed]) for seed in range(ARGS.seeds)]
        for name, settings in POLICIES.items():
            fast = with_policy(patched, settings)
            errors[name] += [distance(sample(fast, positive, seed), full[seed]) for seed in range(ARGS.seeds)]

    print(
        f"{STEPS} steps, three references, {len(ARGS.weights)} random weights × {ARGS.seeds} seeds; relative to full "
        f"references. Spread between seeds: {statistics.mean(spread):.3f}. Without the references: "
        f"{statistics.mean(effect):.3f}.\n"
    )
    print("| policy | mean error | largest | part of the spread between seeds |\n| --- | --- | --- | --- |")
    for name, found in errors.items():
        share = statistics.mean(found) / statistics.mean(spread)
        print(f"| {name} | {statistics.mean(found):.4f} | {max(found):.4f} | {share:.1%} |")


if __name__ == "__main__":
    main()
