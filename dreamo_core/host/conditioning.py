"""Putting references on the host's conditioning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.conds
import node_helpers

from ..run.keys import CONDITIONING_KEY, PLACEHOLDERS_KEY
from ..sequence.embeddings import Embeddings
from ..sequence.reference import ReferenceConditioning, References, conditioning_for
from ..text.placeholders import check_against_references
from .text_encoder import used_placeholders


def control_reference(conditioning: list, number: int, **changes: Any) -> list:
    """A copy of the conditioning on which reference `number` acts by `changes`, entries of `ReferenceSetting`.

    Args:
        number: from 1, in the order in which ReferenceLatent nodes (or DreamO Apply) put them there; 0 for all.

    Raises:
        ValueError: the conditioning carries no references, or not that many, or a value is out of its range.
    """
    result = []
    for cond, values in conditioning:
        latents = values.get("reference_latents") or []
        if not latents or number > len(latents):
            have = f"{len(latents)} reference(s)" if latents else "no reference"
            wanted = f"reference {number}" if number else "references"
            raise ValueError(
                f"The conditioning carries {have} and this node is for {wanted}; put it behind the ReferenceLatent "
                "nodes (or DreamO Apply) that add them, and count from 1 in their order."
            )
        others = dict(values.get("model_conds", {}))
        held = others.pop(CONDITIONING_KEY, None)
        plain = ReferenceConditioning(()).covering(len(latents))
        entry = plain if held is None else held.cond.covering(len(latents))
        settings = tuple(
            replace(setting, **changes) if number in (0, setting.index) else setting for setting in entry.settings
        )
        entry = replace(entry, settings=settings)
        # One that says nothing would only keep this conditioning from sharing a batch with the negative one.
        said = {} if entry == plain else {CONDITIONING_KEY: comfy.conds.CONDConstant(entry)}
        result.append([cond, {**values, "model_conds": {**others, **said}}])
    return result


def attach_references(
    conditioning: list, references: References, embeddings: Embeddings | None, noise_row: bool = False
) -> list:
    """A copy of the conditioning that carries the references, each part of it; the original is left alone.

    References that are all of strength 0 are left out: that is as if there were none.

    Args:
        noise_row: add the noise task row whole in every step, as the released pipeline does with any number of
            references. Otherwise it fades with the strongest reference and goes with the last one, so that a strength
            of 0, a range that is over, and an empty chain give what the model gives by itself.

    Raises:
        ValueError: the conditioning carries reference latents already, its prompt names a missing reference, or has
            placeholders where there are no embeddings.
    """
    for _, values in conditioning:
        if values.get("reference_latents"):
            raise ValueError(
                f"This conditioning already carries {len(values['reference_latents'])} reference latents (from "
                "ReferenceLatent or another DreamO Apply); chain all references in front of one DreamO Apply."
            )
    used = used_placeholders(conditioning)
    check_against_references(used, len(references))
    if used and embeddings is None:
        raise ValueError(
            f"The prompt has DreamO's placeholders ({', '.join(sorted(used))}) but no DreamO file is connected; "
            "connect dreamo_model, or for UNO and USO encode a prompt without them (CLIP Text Encode)."
        )
    # References of strength 0 would still keep this conditioning from sharing a batch with the negative one.
    references = () if all(reference.strength == 0.0 for reference in references) else references
    if not references and not (noise_row and embeddings is not None):
        return conditioning
    values = {"reference_latents": [r.latent for r in references], "reference_latents_method": "uxo"}

    def entry(part: dict) -> comfy.conds.CONDConstant:
        return comfy.conds.CONDConstant(conditioning_for(references, embeddings, part.get(PLACEHOLDERS_KEY), noise_row))

    attached = node_helpers.conditioning_set_values(conditioning, values if references else {})
    return [[c, {**v, "model_conds": {**v.get("model_conds", {}), CONDITIONING_KEY: entry(v)}}] for c, v in attached]
