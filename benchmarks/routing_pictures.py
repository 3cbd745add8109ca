"""Pictures of routing where the right answer is known: the hand-made model of `tests/colour_world.py`.

    python3 scripts/host.py exec benchmarks/routing_pictures.py [--to docs]

Writes one WebP: the true colours, the regions found over them, each reference's heat map; below, step by step.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from boot import REPO, boot

boot(cpu=True)
sys.path.insert(0, str(REPO / "tests"))

from colour_world import colour_dreamo, colour_flux, painted, solid  # noqa: E402
from dreamo_routed.dreamo_core.host.routing import sample_routed, with_routing  # noqa: E402
from dreamo_routed.dreamo_core.routing.drawing import colour, heat_pictures, map_picture, step_strip  # noqa: E402
from dreamo_routed.dreamo_core.routing.settings import RoutingSettings  # noqa: E402
from PIL import Image  # noqa: E402
from support import apply_dreamo, make_conditioning  # noqa: E402

REGIONS = {0: (2, 2, 12, 10), 1: (8, 12, 18, 20)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=REPO / "docs")
    folder = parser.parse_args().to
    latent, masks = painted(REGIONS)
    patched, positive = apply_dreamo(colour_flux(leak=0.5), make_conditioning(), (solid(0), solid(1)), colour_dreamo())
    _, maps = sample_routed(
        with_routing(patched, RoutingSettings()), positive, make_conditioning(9), {"samples": latent}, False,
        seed=1, steps=12, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=0.4,
    )  # fmt: skip
    truth = torch.full((20, 20, 3), 0.25)
    for n, mask in masks.items():
        truth[mask] = colour(n)
    truth = truth.repeat_interleave(16, 0).repeat_interleave(16, 1)
    pictures = [truth, map_picture(maps, picture=truth), *heat_pictures(maps)]
    height = max(picture.shape[0] for picture in pictures)
    row = torch.cat([torch.nn.functional.pad(p, (0, 0, 4, 4, 0, height - p.shape[0])) for p in pictures], dim=1)
    strip = step_strip(maps)
    width = max(row.shape[1], strip.shape[1])
    sheet = torch.cat([torch.nn.functional.pad(p, (0, 0, 0, width - p.shape[1], 0, 8)) for p in (row, strip)])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "routing_known_answer.webp"
    Image.fromarray((sheet * 255).round().to(torch.uint8).numpy()).save(path, quality=80)
    print(path)


if __name__ == "__main__":
    with torch.no_grad():
        main()
