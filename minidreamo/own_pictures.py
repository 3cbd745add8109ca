"""Data of stage 3: pictures of the base itself, each of them its own reference (DreamO, section 3.4).

python3 scripts/host.py exec -m minidreamo.own_pictures CONFIG.toml OUT_DIR [--pictures 500] [--cfg 3]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dreamo_core.training.builders import build
from dreamo_core.training.config import load_config

from . import art, scenes
from .sampling import load_artist

BATCH = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--art", type=Path, default=Path.home() / ".cache" / "minidreamo" / "art")
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    run = load_config(arguments.config)
    torch.set_num_threads(run.threads or torch.get_num_threads())
    artist, world = load_artist(run, None), art.load(arguments.art)
    rng, pool = np.random.default_rng(arguments.seed), scenes.common_pool(world)
    drawn = arguments.out / "drawn"
    drawn.mkdir(parents=True, exist_ok=True)
    for start in range(0, arguments.pictures, BATCH):
        prompts = [
            scenes.random_scene(world, rng, pool, 1, styled=0).text()
            for _ in range(min(BATCH, arguments.pictures - start))
        ]
        pixels, _ = artist.draw(prompts, [], arguments.seed + start, cfg=arguments.cfg)
        for number, (prompt, picture) in enumerate(zip(prompts, pixels, strict=True), start):
            array = scenes.to_bytes(picture)
            Image.fromarray(array).save(drawn / f"{number:05d}.png")
            (drawn / f"{number:05d}.txt").write_text(prompt, encoding="utf-8")
    print(f"{build('reconstruct', drawn, arguments.out, scenes.SIDE)} lines in {arguments.out / 'reconstruct.jsonl'}")


if __name__ == "__main__":
    main()
