"""Numbers of the settings that were drawn: cost beside plain, error beside full references, regions beside masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from ..pictures.background import cut_out, person_mask
from .drawing import FULL, PLAIN, ROUTED, TRIO, Studio, variants
from .steps import DONE, Result, Results, Skip

THRESHOLD = 0.5


def _done(results: Results, name: str, seeds: Sequence[int]) -> list[int]:
    return [seed for seed in seeds if results[f"{name}, seed {seed}"].status == DONE]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def cost_table(studio: Studio, results: Results, seeds: Sequence[int]) -> Result:
    """Time and peak memory of every setting, and its sampling as a factor of plain FLUX.1's.

    Sampling is the fastest of the seeds: a run that had to load models first does not count.
    """
    rows = []
    for name in variants(studio.setting):
        costs = [results[f"{name}, seed {seed}"].facts["cost"] for seed in _done(results, name, seeds)]
        # A picture that the server had finished before it was asked again has no times.
        costs = [cost for cost in costs if cost["sampling_seconds"] is not None]
        if costs:
            peaks = [cost["peak_bytes"] for cost in costs if cost["peak_bytes"] is not None]
            rows.append(
                {
                    "setting": name, "sampling s": min(cost["sampling_seconds"] for cost in costs),
                    "s a step": _mean([cost["step_seconds"] for cost in costs]), "steps": costs[0]["steps"],
                    "peak GiB": max(peaks) / 2**30 if peaks else None, "pictures": len(costs),
                }
            )  # fmt: skip
    if not rows:
        raise Skip("No setting was drawn.")
    plain = rows[0]["sampling s"] if rows[0]["setting"] == PLAIN else None
    for row in rows:
        row["× plain"] = row["sampling s"] / plain if plain else None
    return Result(facts={"costs": rows}, tables={"": rows})


def rms(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt())


def error_table(studio: Studio, results: Results, seeds: Sequence[int]) -> Result:
    """How far each setting's latents are from those with full references, same seed.

    Relative to the root mean square of the full latent, and as a part of what another seed changes.
    """
    full = {seed: studio.latent(results[f"{FULL}, seed {seed}"].facts["file"]) for seed in _done(results, FULL, seeds)}
    if not full:
        raise Skip("There is nothing with full references to compare with.")
    latents = list(full.values())
    spreads = [rms(a - b) for n, a in enumerate(latents) for b in latents[n + 1 :]]
    spread = sum(spreads) / len(spreads) if spreads else None
    rows = []
    for name in variants(studio.setting):
        if name in (PLAIN, FULL):
            continue
        same = [seed for seed in _done(results, name, seeds) if seed in full]
        latents = [studio.latent(results[f"{name}, seed {seed}"].facts["file"]) for seed in same]
        errors = [(rms(latent - full[seed]), rms(full[seed])) for seed, latent in zip(same, latents, strict=True)]
        if errors:
            rows.append(
                {
                    "setting": name, "error": _mean([error / size for error, size in errors]),
                    "of the seeds' spread": _mean([error / spread for error, _ in errors]) if spread else None,
                    "pictures": len(errors),
                }
            )  # fmt: skip
    result = Result(facts={"errors": rows, "spread": spread}, tables={"": rows})
    exact = next((row for row in rows if row["setting"] == "speed: exact"), None)
    if exact is not None and exact["error"] > 1e-3:
        result.fault(f"The preset `exact` differs from full references by {exact['error']:.2g}; it should not.")
    elif exact is not None:
        result.good(f"The preset `exact` gives what full references give (difference {exact['error']:.2g}).")
    return result


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two masks (h, w); 0 if both are empty."""
    either = (a | b).sum()
    return float((a & b).sum() / either) if either else 0.0


def _mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L").resize(size, Image.Resampling.BILINEAR), np.float32) / 255 > THRESHOLD


def region_table(studio: Studio, results: Results, seeds: Sequence[int]) -> Result:
    """IoU of the regions that routing found with masks found in the picture itself.

    The first reference is a person: against the pack's person network. All together: against what stands in front.
    """
    rows, pictures = [], studio.out / "pictures"
    for seed in _done(results, ROUTED, seeds):
        with Image.open(pictures / f"routed_{seed}.png") as opened:
            drawn = np.array(opened.convert("RGB"))
        regions = [_mask(path, drawn.shape[1::-1]) for path in sorted(pictures.glob(f"region_*_{seed}.png"))]
        if len(regions) != len(TRIO):
            raise ValueError(f"Routing gave {len(regions)} regions for {len(TRIO)} references.")
        front = cut_out(drawn).keep
        rows.append(
            {
                "seed": seed, "person": iou(regions[0], person_mask(drawn) > THRESHOLD),
                "in front": iou(np.any(regions, 0), front > THRESHOLD) if front is not None else None,
                "regions' share": float(np.any(regions, 0).mean()),
            }
        )  # fmt: skip
    if not rows:
        raise Skip("No routed picture was drawn.")
    return Result(facts={"regions": rows}, tables={"": rows})


def contact_sheet(studio: Studio, results: Results, seeds: Sequence[int]) -> Result:
    """Every setting (rows) with every seed (columns) in one picture."""
    names = [name for name in variants(studio.setting) if _done(results, name, seeds)]
    if not names:
        raise Skip("No setting was drawn.")
    figure, axes = plt.subplots(
        len(names), len(seeds), figsize=(2.6 * len(seeds) + 1, 2.7 * len(names)), squeeze=False, layout="constrained"
    )
    for name, row in zip(names, axes, strict=True):
        for seed, axis in zip(seeds, row, strict=True):
            axis.set_axis_off()
            axis.set_title(f"{name}, seed {seed}", fontsize=8)
            if seed in _done(results, name, seeds):
                file = results[f"{name}, seed {seed}"].facts["file"]
                with Image.open(studio.out / "pictures" / f"{file}.png") as picture:
                    axis.imshow(picture.convert("RGB"))
    figure.savefig(studio.out / "contact_sheet.png", dpi=120)
    plt.close(figure)
    return Result(pictures=[("contact_sheet.png", "every setting, every seed")])
