"""The same seeds by the other implementations, where the user has them: the official node, the released pipeline."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..measure.files import write_whole
from ..measure.graphs import node_with_defaults, reference_prompt
from ..text.style import with_style_trigger
from .costs import rms
from .drawing import FULL, TRIO, TRIO_PROMPT, TRIO_TASKS, Studio
from .steps import DONE, Result, Results, Skip

OFFICIAL_NODES = ("DreamOProcessorLoader", "DreamORefEncode", "ApplyDreamO")
SAME = 1e-3
"""Relative difference up to which both are held for the same; the rest is the order of additions in low precision."""

WORKER = Path(__file__).with_name("pipeline_worker")
"""A folder of its own: Python puts it in front of everything, so nothing of ours may lie in it."""
TASK_NAMES = {"subject": "ip", "try-on": "ip", "identity": "id", "style": "style"}
"""What the released pipeline calls the tasks."""


def _with_official_node(prompt: dict[str, Any], info: dict[str, Any], resolution: int) -> dict[str, Any]:
    """Our prompt with the official node in place of DreamO Apply; it gets the picture that we prepared."""
    prompt = {node: content for node, content in prompt.items() if node != "apply"}
    vae = prompt["decode"]["inputs"]["vae"]
    _, options = info["DreamORefEncode"]["input"]["required"]["resolution"]
    prompt["processor"] = {"class_type": "DreamOProcessorLoader", "inputs": {}}
    prompt["encoded"] = node_with_defaults(
        info, "DreamORefEncode", pixels=["reference1", 1], vae=vae, dreamo_processor=["processor", 0],
        resolution=max(resolution, options.get("min", 0)), ref_task="style",
    )  # fmt: skip
    prompt["official"] = {"class_type": "ApplyDreamO", "inputs": {"model": ["dreamo", 1], "ref1": ["encoded", 0]}}
    sampling = {"model": ["official", 0], "positive": ["text", 0]}
    prompt["sample"] = {**prompt["sample"], "inputs": prompt["sample"]["inputs"] | sampling}
    return prompt


def official_node(studio: Studio, results: Results, seeds: Sequence[int]) -> Result:
    """A style reference (kept whole by both, so that only what the model sees is compared) by ours and by theirs."""
    info = studio.client.object_info()
    if missing := [name for name in OFFICIAL_NODES if name not in info]:
        raise Skip(f"The official ComfyUI-DreamO is not installed ({', '.join(missing)} missing).")
    result, rows = Result(), []
    text = with_style_trigger("a dog on a skateboard")
    references = [(studio.uploaded(results, TRIO[1]), "style")]
    models = studio.models(results)
    for seed in seeds:
        ours = reference_prompt(info, models, studio.setting, text, references, seed, "DreamO/check_ours", latent=True)
        theirs = _with_official_node(ours, info, studio.setting.resolution)
        latents = []
        for name, prompt in ((f"ours_{seed}", ours), (f"official_{seed}", theirs)):
            outputs, cost = studio.run(results, prompt, name)
            write_whole(
                studio.out / "latents" / f"{name}.latent", studio.client.fetch(outputs["latent_file"]["latents"][0])
            )
            latents.append(studio.latent(name))
            result.pictures.append((f"pictures/{name}.png", name.replace("_", ", seed ")))
        difference = rms(latents[0] - latents[1]) / rms(latents[1])
        rows.append({"seed": seed, "relative difference": difference, "s a step": cost["step_seconds"]})
    result.tables, result.facts = {"": rows}, {"official": rows}
    largest = max(row["relative difference"] for row in rows)
    if largest <= SAME:
        result.good(f"The same as the official node: relative difference at most {largest:.2g}.")
    else:
        result.fault(f"Not the same as the official node: relative difference up to {largest:.2g}.")
    return result


def released_pipeline(
    studio: Studio, results: Results, seeds: Sequence[int], folder: Path | None, python: str
) -> Result:
    """The released pipeline in its own process, beside our pictures with full references.

    Its noise is of another random generator call and in low precision, so pictures of one seed are not the same; what
    can be compared is how they look, and how far apart they are beside two seeds of ours.

    Args:
        folder: a clone of bytedance/DreamO with its own requirements and weights at hand.
        python: that runs it.
    """
    if folder is None:
        raise Skip("No clone of bytedance/DreamO was given (--pipeline).")
    stack = studio.setting.stack or {}
    pictures = studio.out / "pictures"
    job = {
        "references": [str(pictures / f"{Path(file).stem}.png") for file in TRIO],
        "tasks": [TASK_NAMES[task] for task in TRIO_TASKS], "prompt": TRIO_PROMPT, "seeds": list(seeds),
        "version": stack.get("preset", "v1.1"), "turbo": bool(stack.get("use_turbo")),
        "settings": {
            "width": studio.setting.width, "height": studio.setting.height, "steps": studio.setting.steps,
            "guidance": studio.setting.guidance, "resolution": studio.setting.resolution,
        },
        "out": str(pictures),
    }  # fmt: skip
    # Nothing is fetched: what the pipeline would download must be in its cache already.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [python, str(WORKER.resolve())], input=json.dumps(job), cwd=folder, env=environment, capture_output=True,
        text=True,
    )  # fmt: skip
    if done.returncode:
        raise ValueError(f"The released pipeline stopped with code {done.returncode}: {done.stderr[-1500:]}")
    costs = {entry["seed"]: entry["seconds"] for entry in json.loads(done.stdout.splitlines()[-1])}
    result, rows = Result(), []
    ours = {}
    for seed in seeds:
        result.pictures.append((f"pictures/pipeline_{seed}.png", f"released pipeline, seed {seed}"))
        found = results[f"{FULL}, seed {seed}"]
        if found.status == DONE:
            ours[seed] = _pixels(pictures / f"{found.facts['file']}.png")
            result.pictures.append((f"pictures/{found.facts['file']}.png", f"ours, seed {seed}"))
    spread = [rms(a - b) for n, a in enumerate(ours.values()) for b in list(ours.values())[n + 1 :]]
    for seed, drawn in ours.items():
        theirs = _pixels(pictures / f"pipeline_{seed}.png")
        distance = rms(drawn - theirs) if drawn.shape == theirs.shape else None
        rows.append(
            {
                "seed": seed, "difference of pixels": distance, "our seeds differ by": max(spread, default=None),
                "its seconds": costs[seed],
            }
        )  # fmt: skip
    result.tables, result.facts = {"": rows}, {"pipeline": rows}
    result.note("Its noise is another one, so pictures are arranged otherwise; compare what the subjects look like.")
    return result


def _pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"), np.float32)) / 255
