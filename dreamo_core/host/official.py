"""References on a model instead of a conditioning, as DreamO's official pack has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.conds
import comfy_api.latest
from comfy.patcher_extension import WrappersMP

from ..checkpoint.presets import FILES
from ..graphs.official import host_replacements
from ..run.keys import CONDITIONING_KEY, WRAPPER_KEY
from ..sequence.embeddings import Embeddings
from ..sequence.reference import References, conditioning_for
from .flux import with_dreamo_references, with_wrapper
from .folders import expected_folder, find_released


def embedding_file() -> Path:
    """The released file with DreamO's rows, which the official node finds by itself.

    Raises:
        ValueError: neither embedding.safetensors nor dreamo.safetensors is there.
    """
    for name in ("embedding", "dreamo"):
        path = find_released(FILES[name])
        if path is not None:
            return path
    raise ValueError(
        f"DreamO's rows are missing: put embedding.safetensors (or dreamo.safetensors) of {FILES['embedding'].repo} "
        f"into {expected_folder()}; `python -m dreamo_core.checkpoint download embedding` fetches it."
    )


def make_positive_wrapper(references: References, embeddings: Embeddings):
    """The wrapper for the host's OUTER_SAMPLE hook: puts the references on the run's own copy of the positive prompt.

    The official node gives them to every prompt of a run. With its distilled LoRA cfg is 1 and there is no other; with
    true guidance the reference pipeline's negative pass has none.
    """
    entry = comfy.conds.CONDConstant(conditioning_for(references, embeddings))
    values = {"reference_latents": [r.latent for r in references], "reference_latents_method": "uxo"}

    def outer_sample(executor, *args, **kwargs):
        # Made by the guider for this run, and dropped at its end.
        conds = executor.class_obj.conds
        conds["positive"] = [
            {**cond, **values, "model_conds": {**cond["model_conds"], CONDITIONING_KEY: entry}}
            for cond in conds["positive"]
        ]
        return executor(*args, **kwargs)

    return outer_sample


def with_references_on_model(model: Any, references: References, embeddings: Embeddings) -> Any:
    """A clone of the ModelPatcher that samples every positive prompt with these references.

    Raises:
        ValueError: not FLUX.1, or the embeddings do not fit it.
    """
    wrapper = make_positive_wrapper(references, embeddings)
    patched = with_dreamo_references(model, embeddings)
    return with_wrapper(patched, WrappersMP.OUTER_SAMPLE, WRAPPER_KEY + "_official", wrapper)


async def register_replacements() -> None:
    """Tell hosts that can replace nodes what stands in for those of the official pack, where that is not installed."""
    replaced = getattr(comfy_api.latest.io, "NodeReplace", None)
    if replaced is None:
        return
    for arguments in host_replacements():
        await comfy_api.latest.ComfyAPI().node_replacement.register(replaced(**arguments))
