"""Settings for the cost of references on the host's model, and their memory in the host's own estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP
from comfy.samplers import calculate_sigmas

from ..reuse.constant import ConstantStore
from ..reuse.cost import ModelShape, Tokens, describe, store_bytes
from ..reuse.policy import ReusePolicy
from ..run.keys import CONDITIONING_KEY, POLICY_KEY, STORE_KEY, WRAPPER_KEY
from ..sampling.apply_model import kept_of, plain_references
from ..sequence.positions import token_grid
from ..sequence.reference import ReferenceConditioning
from .flux import check_family, with_references, with_wrapper

PAIRS_UNDER_WAY = 2
"""Blocks whose keys and values are on the device at once in low-memory mode: one in use, one on its way."""


def shape_of(model: Any) -> ModelShape:
    """The sizes of the transformer in a ModelPatcher."""
    return check_family(model).shape(model.get_model_object("diffusion_model"))


def reference_tokens(
    conditioning: ReferenceConditioning, latents: list[torch.Tensor], settings: ReusePolicy, patch: int = 2
) -> int:
    """Number of tokens that all references of a conditioning have in the sequence; a token is `patch` latent pixels."""
    grids = [token_grid(*latent.shape[-2:], patch) for latent in latents]
    kept = [kept_of(s, grid, settings) for s, grid in zip(conditioning.settings, grids, strict=True)]
    return sum(rows * columns if k is None else len(k) for (rows, columns), k in zip(grids, kept, strict=True))


def device_bytes(model: Any, tokens: int, settings: ReusePolicy, batch: int = 1) -> int:
    """Bytes that kept keys and values of that many reference tokens take on the model's device."""
    shape = shape_of(model)
    element_size = comfy.model_management.dtype_size(model.model.manual_cast_dtype or model.model.get_dtype())
    total = store_bytes(shape, tokens, element_size, settings.store == "fp8", batch)
    return total * min(PAIRS_UNDER_WAY, shape.blocks) // shape.blocks if settings.low_memory else total


def carried_by(conditioning: list) -> tuple[ReferenceConditioning, list[torch.Tensor]]:
    """What a conditioning's first part says about its references, and their latents; ValueError if it has none."""
    values = conditioning[0][1]
    latents = values.get("reference_latents")
    if not latents:
        raise ValueError(
            "The conditioning for the report carries no references; connect it behind ReferenceLatent or DreamO Apply."
        )
    held = values.get("model_conds", {}).get(CONDITIONING_KEY)
    return (plain_references(latents) if held is None else held.cond.covering(len(latents))), latents


def expected_cost(
    model: Any,
    settings: ReusePolicy,
    carried: ReferenceConditioning,
    latents: Sequence[torch.Tensor],
    width: int,
    height: int,
    steps: int,
) -> str:
    """What a run with these references costs by the cost model, in words, with text of the usual length."""
    family = check_family(model)
    patch = model.get_model_object("diffusion_model").patch_size
    tokens = round(settings.keep_share * reference_tokens(carried, latents, settings, patch))
    rows, columns = token_grid(height // family.latent_pixels, width // family.latent_pixels, patch)
    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps).tolist()
    sequence = Tokens(family.text_tokens, rows * columns, tokens)
    return describe(shape_of(model), sequence, settings, sigmas, device_bytes(model, tokens, settings))


def _stand_in(model: Any, nbytes: int) -> torch.Tensor:
    """A latent without data for which the host's estimate comes out at that many bytes."""
    area = math.ceil(nbytes / model.model.memory_required([1, 1, 1, 1]))
    return torch.empty(1, 1, 1, area, device="meta")


def make_prepare_sampling_wrapper(settings: ReusePolicy):
    """The wrapper for the host's PREPARE_SAMPLING hook: the store counts when the host makes room for a run.

    The host estimates a run's memory from the sizes of the conditioning's reference latents. For the time of that
    estimate a latent without data, as large as the store needs, stands beside them.
    """

    def prepare_sampling(executor, model, noise_shape, conds, *args, **kwargs):
        def counted(cond: dict[str, Any]) -> dict[str, Any]:
            entry = cond.get("model_conds", {}).get(CONDITIONING_KEY)
            latents = cond.get("reference_latents")
            carried = plain_references(latents) if entry is None else entry.cond.covering(len(latents or ()))
            if carried is None or not latents or len(latents) != len(carried.settings):
                return cond
            patch = model.get_model_object("diffusion_model").patch_size
            tokens = reference_tokens(carried, latents, settings, patch)
            stand_in = _stand_in(model, device_bytes(model, tokens, settings, noise_shape[0]))
            return {**cond, "reference_latents": [*latents, stand_in]}

        def uncounted(cond: dict[str, Any]) -> dict[str, Any]:
            latents = cond.get("reference_latents") or []
            real = [latent for latent in latents if latent.device.type != "meta"]
            return cond if len(real) == len(latents) else {**cond, "reference_latents": real}

        with_store = {name: [counted(cond) for cond in parts] for name, parts in conds.items()}
        real_model, conds, models = executor(model, noise_shape, with_store, *args, **kwargs)
        return real_model, {name: [uncounted(cond) for cond in parts] for name, parts in conds.items()}, models

    return prepare_sampling


def with_policy(model: Any, settings: ReusePolicy, store: ConstantStore | None = None) -> Any:
    """A clone of the ModelPatcher on which references cost what the settings say; before or after DreamO Apply.

    Plain references of stock nodes (UNO, USO, Kontext, FLUX.2) become cheap too.

    Args:
        store: for "constant": where keys and values are kept between runs; None to keep them for one run.

    Raises:
        ValueError: of no family that references work on.
    """
    model = with_references(model)
    key = WRAPPER_KEY + "_speed"
    if settings.reuses:
        model = with_wrapper(model, WrappersMP.PREPARE_SAMPLING, key, make_prepare_sampling_wrapper(settings))
    else:
        model.remove_wrappers_with_key(WrappersMP.PREPARE_SAMPLING, key)
    model.model_options["transformer_options"] |= {POLICY_KEY: settings, STORE_KEY: store}
    return model
