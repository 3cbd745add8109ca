"""The model patch: one wrapper around the host's `apply_model` that reads what rides on the conditioning.

It keeps nothing between calls. What a call needs is put into that call's own copy of `transformer_options`, so a
conditioning without references, or a run that fails halfway, leaves nothing behind.

`apply_model` rather than the diffusion model's forward is wrapped because the noise schedule is at hand there (for
start and end percent) and because a compiled forward then never sees our keyword.
"""

from __future__ import annotations

from typing import Any

import torch

from .conditioning import ReferenceConditioning
from .participants import Strength
from .positions import diagonal_offsets, token_grid
from .sequence import PlacedReference, ReferenceSequence

CONDITIONING_KEY = "dreamo_references"
"""Name of our entry in a conditioning's `model_conds`; it arrives as this keyword of `apply_model`."""


def place_references(
    conditioning: ReferenceConditioning,
    latents: list[torch.Tensor],
    active: list[int],
    image_shape: torch.Size,
    patch: int,
) -> tuple[int, list[PlacedReference]]:
    """Number of image tokens, and the active references with their places on the diagonal.

    A reference that is inactive in this call keeps its place, so the others do not jump when it comes or goes.
    """
    image = token_grid(*image_shape[-2:], patch)
    grids = [token_grid(*latent.shape[-2:], patch) for latent in latents]
    offsets = diagonal_offsets(image, grids)
    return image[0] * image[1], [PlacedReference(conditioning.settings[n], grids[n], offsets[n]) for n in active]


def patched_options(options: dict[str, Any], sequence: ReferenceSequence) -> dict[str, Any]:
    """A copy of `transformer_options` with this call's patches added after those already there."""
    patches = options.get("patches", {})
    options = {**options, "patches": {**patches, "post_input": [*patches.get("post_input", []), sequence.post_input]}}
    if sequence.needs_attention():
        options["optimized_attention_override"] = sequence.attention_override
    return options


def make_apply_model_wrapper(choose_attention):
    """The wrapper for the host's APPLY_MODEL hook.

    Args:
        choose_attention: maps the host's attention function to one that takes widened heads.
    """

    def apply_model(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        conditioning: ReferenceConditioning | None = kwargs.pop(CONDITIONING_KEY, None)
        if conditioning is None:
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

        latents = kwargs.pop("ref_latents", None) or []
        method = kwargs.pop("ref_latents_method", None)
        if len(latents) != len(conditioning.settings):
            raise ValueError(
                f"This conditioning carries {len(latents)} reference latents but DreamO Apply put "
                f"{len(conditioning.settings)} there; add references to the DreamO chain instead of using "
                "ReferenceLatent on the same conditioning."
            )
        model = executor.class_obj
        active = conditioning.active(float(t.flatten()[0]), model.model_sampling.percent_to_sigma)
        if active:
            count, placed = place_references(conditioning, latents, active, x.shape, model.diffusion_model.patch_size)
            options = transformer_options or {}
            sequence = ReferenceSequence(
                count,
                placed,
                conditioning.embeddings,
                [Strength([reference.setting.strength for reference in placed])],
                options.get("optimized_attention_override"),
                choose_attention,
            )
            transformer_options = patched_options(options, sequence)
            kwargs["ref_latents"] = [latents[n] for n in active]
            kwargs["ref_latents_method"] = method
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    return apply_model
