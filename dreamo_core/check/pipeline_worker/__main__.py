"""Runs the released DreamO pipeline (a clone of bytedance/DreamO, the working folder) on one job from standard input.

A process of its own, with nothing of this package: that repository has other requirements, and may have another Python.
The last line it prints is JSON: seconds of each seed.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from dreamo_generator import DreamOPipeline, Generator
from PIL import Image


def main():
    job = json.load(sys.stdin)
    settings = job["settings"]
    load = DreamOPipeline.load_dreamo_model

    def load_as_asked(self, *args, **kwargs):
        # Some versions of the generator pass `no_turbo` as `use_turbo`.
        return load(self, *args, **{**kwargs, "use_turbo": job["turbo"]})

    DreamOPipeline.load_dreamo_model = load_as_asked
    generator = Generator(version=job["version"], offload=True, no_turbo=not job["turbo"], quant="none")
    pictures = [np.array(Image.open(path).convert("RGB")) for path in job["references"]]
    seconds = []
    for seed in job["seeds"]:
        started = time.monotonic()
        conditions, _, _ = generator.pre_condition(
            ref_images=pictures, ref_tasks=job["tasks"], ref_res=settings["resolution"], seed=seed
        )
        with torch.inference_mode():
            drawn = generator.dreamo_pipeline(
                prompt=job["prompt"],
                width=settings["width"],
                height=settings["height"],
                num_inference_steps=settings["steps"],
                guidance_scale=settings["guidance"],
                ref_conds=conditions,
                generator=torch.Generator(device="cpu").manual_seed(seed),
                true_cfg_scale=1.0,
                first_step_guidance_scale=settings["guidance"],
            ).images[0]
        drawn.save(Path(job["out"]) / f"pipeline_{seed}.png")
        seconds.append({"seed": seed, "seconds": time.monotonic() - started})
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
