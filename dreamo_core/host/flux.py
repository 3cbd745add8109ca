"""The host's Flux model: what we accept, and the wrappers we put on a clone of its patcher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.ldm.flux.model
import comfy.ldm.modules.attention
import comfy.model_base
import comfy.model_sampling
import torch
from comfy.ldm.flux.layers import timestep_embedding
from comfy.patcher_extension import WrappersMP

from ..run.keys import WRAPPER_KEY
from ..run.run import outer_sample_wrapper
from ..sampling.apply_model import make_apply_model_wrapper
from ..sampling.cfg_range import CfgRange, make_cfg_range_wrapper
from ..sampling.families import FAMILIES, family_of
from ..sampling.families.family import Family
from ..sampling.families.flux1 import FLUX1
from ..sampling.schedule import TIMESTEPS
from ..sequence.embeddings import Embeddings
from .fingerprint import fingerprint


def attention_for_bias(attention: Callable, form: str) -> Callable:
    """The host's attention function, or its PyTorch one where that cannot take this form of a bias.

    Sage attention takes neither other head sizes nor masks, flash attention no masks.
    """
    name = getattr(attention, "__name__", "")
    if "sage" in name or ("flash" in name and form == "dense"):
        return comfy.ldm.modules.attention.attention_pytorch
    return attention


def first_modulation(
    model: Any,
    family: Family,
    sigma: torch.Tensor,
    y: torch.Tensor | None = None,
    guidance: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(scale, shift) that the first block puts on normed image tokens at this noise level: (b, c) each, float32.

    Args:
        model: the host's BaseModel around a Flux.
        sigma: (b,); y: (b, d) pooled text; guidance: (b,) or (1,).
    """
    flux = model.diffusion_model
    dtype = model.manual_cast_dtype or model.get_dtype()
    embed = lambda value: timestep_embedding(value.float(), 256).to(device=sigma.device, dtype=dtype)  # noqa: E731
    vec = flux.time_in(embed(model.model_sampling.timestep(sigma)))
    if flux.params.guidance_embed and guidance is not None:
        vec = vec + flux.guidance_in(embed(guidance.to(sigma.device)))
    return family.first_modulation(flux, vec, y)


def replaced_forward(flux: Any) -> str | None:
    """The pack whose forward pass a Flux runs in place of the host's own, by the name of its folder, or None."""
    for name in ("forward_orig", "_forward", "forward"):
        function = getattr(flux, name, None)
        function = getattr(function, "func", function)
        module = getattr(function, "__module__", None) or ""
        # A compiled model's own `forward` is torch's, and runs the host's.
        if module and not module.startswith(("comfy.", "torch.")):
            inside = module.replace("\\", "/").rpartition("custom_nodes/")[2]
            return inside.split("/")[0].split(".")[0]
    return None


_apply_model = make_apply_model_wrapper(attention_for_bias, first_modulation, replaced_forward, fingerprint)


_KNOWN_AS = {"SD15": "SD 1.5", "SD20": "SD 2", "SD3": "SD 3", "Flux2": "FLUX.2", "SDXLRefiner": "the SDXL refiner"}


def _known_as(model: Any) -> str:
    """What people call this model; what the host's class is called, where that is the same."""
    if "nunchaku" in type(model.get_model_object("diffusion_model")).__name__.lower():
        return "a Nunchaku one, which replaces the host's layers"
    config = type(getattr(model.model, "model_config", model.model)).__name__
    return _KNOWN_AS.get(config, config)


def check_family(model: Any, allowed: Sequence[Family] = FAMILIES) -> Family:
    """The family of `model` (the host's ModelPatcher).

    Raises:
        ValueError: none that is allowed, or a Fill or control variant of it.
    """
    diffusion_model = model.get_model_object("diffusion_model")
    is_flux = isinstance(diffusion_model, comfy.ldm.flux.model.Flux) and isinstance(model.model, comfy.model_base.Flux)
    family = family_of(diffusion_model) if is_flux else None
    if family not in allowed:
        names = " or ".join(one.name for one in allowed)
        raise ValueError(
            f"DreamO references need a {names} model, got {_known_as(model)}; load flux1-dev with Load Diffusion Model."
        )
    params = diffusion_model.params
    if params.in_channels != params.out_channels:
        raise ValueError(
            f"DreamO references need a {family.name} model with {params.out_channels} input channels, got "
            f"{params.in_channels}; this is a Fill or control variant, load flux1-dev instead."
        )
    return family


def check_flux(model: Any, embeddings: Embeddings | None = None) -> None:
    """Raise ValueError unless `model` (the host's ModelPatcher) is a FLUX.1 that fits the embeddings."""
    check_family(model, (FLUX1,))
    params = model.get_model_object("diffusion_model").params
    if embeddings is not None and embeddings.hidden_size != params.hidden_size:
        raise ValueError(
            f"The DreamO embeddings are {embeddings.hidden_size} wide but the model's hidden size is "
            f"{params.hidden_size}; take the DreamO file that was trained for this model."
        )


def with_wrapper(model: Any, wrapper_type: str, key: str, wrapper: Callable) -> Any:
    """A clone of the ModelPatcher that has `wrapper`, once, under our key."""
    model = model.clone()
    model.remove_wrappers_with_key(wrapper_type, key)
    model.add_wrapper_with_key(wrapper_type, key, wrapper)
    return model


def with_dreamo_references(model: Any, embeddings: Embeddings | None) -> Any:
    """A clone of the ModelPatcher that understands what `DreamO Apply` puts on a conditioning.

    Raises:
        ValueError: not FLUX.1, or the embeddings do not fit it.
    """
    check_flux(model, embeddings)
    return with_references(model)


def with_references(model: Any) -> Any:
    """A clone of the ModelPatcher that understands references on its conditioning.

    Raises:
        ValueError: of no family that references work on.
    """
    check_family(model)
    model = with_wrapper(model, WrappersMP.OUTER_SAMPLE, WRAPPER_KEY, outer_sample_wrapper)
    return with_wrapper(model, WrappersMP.APPLY_MODEL, WRAPPER_KEY, _apply_model)


class ReleasedSampling(comfy.model_sampling.ModelSamplingFlux, comfy.model_sampling.CONST):
    """FLUX.1's schedule with a shift of its own, as the host's ModelSamplingFlux node makes it, in finer steps."""


def with_shift(model: Any, shift: float) -> Any | None:
    """A clone of the ModelPatcher whose schedule has this shift; None where the user has put a schedule on it."""
    held = model.object_patches.get("model_sampling")
    if held is not None and not isinstance(held, ReleasedSampling):
        return None
    sampling = ReleasedSampling(model.model.model_config)
    sampling.set_parameters(shift=shift, timesteps=TIMESTEPS)
    model = model.clone()
    model.add_object_patch("model_sampling", sampling)
    return model


def with_cfg_range(model: Any, wanted: CfgRange) -> Any:
    """A clone of the ModelPatcher whose negative prompt acts in a part of sampling only."""
    wrapper = make_cfg_range_wrapper(wanted)
    return with_wrapper(model, WrappersMP.CALC_COND_BATCH, WRAPPER_KEY + "_cfg_range", wrapper)
