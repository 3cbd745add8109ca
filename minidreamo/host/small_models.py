"""Small models of the host's own classes with random weights, for trying graphs and for tests.

Every size is a FLUX.1 or FLUX.2 size made small; nothing else differs. The pictures they make are noise.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.clip_vision
import comfy.controlnet
import comfy.latent_formats
import comfy.ldm.flux.controlnet
import comfy.ldm.flux.model
import comfy.ldm.models.autoencoder
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models
import comfy.text_encoders.flux
import folder_paths
import torch

from ...dreamo_core.checkpoint import DreamOModel
from ...dreamo_core.flux import MAX_REFERENCES
from ...dreamo_core.sequence.embeddings import PLACEHOLDER_ROWS, Embeddings

FLUX_CONFIG = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 64,
    "context_in_dim": 64,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 4,
    "depth": 2,
    "depth_single_blocks": 4,
    "axes_dim": [8, 12, 12],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
}
"""FLUX.1-dev in small: hidden size = heads × sum of the RoPE axes."""

FLUX2_CONFIG = {
    **FLUX_CONFIG,
    "image_model": "flux2",
    "in_channels": 128,
    "out_channels": 128,
    "patch_size": 1,
    "vec_in_dim": None,
    "mlp_ratio": 3.0,
    "axes_dim": [8, 8, 8, 8],
    "theta": 2000,
    "qkv_bias": False,
    "guidance_embed": False,
    "global_modulation": True,
    "mlp_silu_act": True,
    "ops_bias": False,
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
    "txt_ids_dims": [3],
}
"""FLUX.2 klein in small; dev has `guidance_embed` too."""

LATER_PARAMETERS = {"txt_ids_dims": []}
"""What newer hosts want to be told of FLUX.1 beside that, and older ones refuse: no axis counts text tokens."""

DEMO_FLUX_CONFIG = {"hidden_size": 64, "num_heads": 2, "depth": 1, "depth_single_blocks": 1}
"""Smaller still: runs a full-size graph on a CPU in seconds."""

VAE_CONFIG = {
    "embed_dim": 16,
    "ddconfig": {
        "double_z": True,
        "z_channels": 16,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 1, 1],
        "num_res_blocks": 0,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
}
"""FLUX.1's autoencoder in small."""

TEXT_CONFIG = {
    "clip_l_model_config": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
    },
    "t5xxl_model_config": {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_heads": 4, "num_layers": 2},
}
"""Overrides that the host's text encoder classes read from their model options."""


VISION_WIDTH = 32
"""Of the small SigLIP; the real one is 1152 wide."""


def randomize(module: torch.nn.Module, seed: int) -> None:
    """Fill every parameter in place from a seed: matrices keep the variance of what passes through."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            value = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
        elif name.endswith(("scale", "norm.weight", "norm1.weight", "norm2.weight")):
            value = 1 + 0.1 * torch.randn(parameter.shape, generator=generator)
        else:
            value = 0.1 * torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(value)


def host_config(config: dict[str, Any], parameters: type) -> dict[str, Any]:
    """What this host's model class takes of `config`, and what it wants beside.

    Args:
        config: entries of `FLUX_CONFIG`.
        parameters: the host's dataclass of the model's parameters.
    """
    taken = {"image_model", *(field.name for field in dataclasses.fields(parameters))}
    return {name: value for name, value in (LATER_PARAMETERS | config).items() if name in taken}


def make_flux(config: dict[str, Any], dtype: torch.dtype = torch.float32, compute: Any = None, device: Any = None):
    """The host's FLUX.1 or FLUX.2 with weights that nobody has set.

    Args:
        config: all entries of `FLUX_CONFIG` or of `FLUX2_CONFIG`.
        dtype: of the weights.
        compute: dtype of the computation, if another.
        device: of the weights; the host's choice if None.
    """
    kind = comfy.supported_models.Flux2 if config["image_model"] == "flux2" else comfy.supported_models.Flux
    model_config = kind(host_config(config, comfy.ldm.flux.model.FluxParams))
    model_config.set_inference_dtype(dtype, compute)
    return model_config.get_model({}, "", device=device)


def small_flux(seed: int = 0, dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    """A ModelPatcher around a small Flux with random weights.

    Args:
        seed: of the weights.
        dtype: of weights and computation.
        config: entries of `FLUX_CONFIG` to change.
    """
    return _patcher({**FLUX_CONFIG, **config}, dtype, seed)


def small_flux2(seed: int = 0, dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    """A ModelPatcher around a small FLUX.2; arguments as for `small_flux`, with entries of `FLUX2_CONFIG`."""
    return _patcher({**FLUX2_CONFIG, **config}, dtype, seed)


def _patcher(config: dict[str, Any], dtype: torch.dtype, seed: int) -> Any:
    model = make_flux(config, dtype)
    randomize(model.diffusion_model, seed)
    load_device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, load_device, comfy.model_management.unet_offload_device())


def small_vae(seed: int = 0) -> Any:
    """A VAE of FLUX.1's kind, 16 latent channels at an eighth of the size, with random weights."""
    config = {"params": VAE_CONFIG}
    autoencoder = comfy.ldm.models.autoencoder.AutoencoderKL(**VAE_CONFIG)
    randomize(autoencoder, seed)
    return comfy.sd.VAE(sd=autoencoder.state_dict(), config=config)


def small_text_encoders(seed: int = 0) -> Any:
    """A CLIP as DualCLIPLoader makes for FLUX.1, with small encoders, the real tokenizers and random weights."""
    target = SimpleNamespace(
        params={}, clip=comfy.text_encoders.flux.FluxClipModel, tokenizer=comfy.text_encoders.flux.FluxTokenizer
    )
    clip = comfy.sd.CLIP(target, model_options={**TEXT_CONFIG, "dtype": torch.float32})
    randomize(clip.cond_stage_model, seed)
    return clip


def small_dreamo(seed: int = 0, **config: Any) -> DreamOModel:
    """A DreamO file's embeddings with random weights, and no LoRA; `config` as for the model they are for."""
    hidden, text = ({**FLUX_CONFIG, **config}[name] for name in ("hidden_size", "context_in_dim"))
    generator = torch.Generator().manual_seed(seed)
    task, index, placeholders = (
        torch.randn(rows, width, generator=generator) * 0.5
        for rows, width in ((2, hidden), (MAX_REFERENCES + 1, hidden), (PLACEHOLDER_ROWS, text))
    )
    return DreamOModel(Path("random weights"), Embeddings(task, index, placeholders))


def small_controlnet(layout: str = "xlabs", seed: int = 0, **config: Any) -> Any:
    """A Flux ControlNet with random weights.

    Args:
        layout: "xlabs" takes the hint as pixels; "union" is InstantX's: it takes it as a latent, so the apply node
            needs the VAE, and it has a control type.
        seed: of the weights.
        config: entries of `FLUX_CONFIG` to change, as for the model it is to control.
    """
    union = layout == "union"
    if not union and layout != "xlabs":
        raise ValueError(f"The layout is xlabs or union, got {layout}.")
    config = {**FLUX_CONFIG, **config, "depth": 1, "depth_single_blocks": 1 if union else 0}
    options = {"latent_input": True, "num_union_modes": 10, "control_latent_channels": 16} if union else {}
    config = host_config(config, comfy.ldm.flux.model.FluxParams)
    model = comfy.ldm.flux.controlnet.ControlNetFlux(
        operations=comfy.ops.manual_cast, dtype=torch.float32, **options, **config
    )
    randomize(model, seed)
    return comfy.controlnet.ControlNet(
        model,
        compression_ratio=1 if union else 8,
        latent_format=comfy.latent_formats.Flux() if union else None,
        load_device=comfy.model_management.get_torch_device(),
        extra_conds=["y", "guidance"],
    )


def small_clip_vision(seed: int = 0) -> Any:
    """A CLIP_VISION like sigclip_vision_patch14_384: 27 layers and 729 tokens of a picture, but narrow and random."""
    real = Path(inspect.getfile(comfy.clip_vision.ClipVisionModel)).with_name("clip_vision_siglip_384.json")
    config = json.loads(real.read_text())
    config |= {"hidden_size": VISION_WIDTH, "intermediate_size": 2 * VISION_WIDTH, "num_attention_heads": 2}
    scratch = Path(folder_paths.get_temp_directory())
    scratch.mkdir(parents=True, exist_ok=True)
    # The host's class reads its sizes from a file.
    path = scratch / "dreamo_demo_vision.json"
    path.write_text(json.dumps(config))
    try:
        vision = comfy.clip_vision.ClipVisionModel(str(path))
    finally:
        path.unlink()
    randomize(vision.model, seed)
    return vision


def small_uso_projector(hidden_size: int, seed: int = 0) -> Any:
    """A MODEL_PATCH like uso-flux1-projector-v1 for `small_clip_vision` and a model that is `hidden_size` wide."""
    # Here, for it brings other nodes along.
    from comfy_extras.nodes_model_patch import SigLIPMultiFeatProjModel

    device = comfy.model_management.unet_offload_device()
    projector = SigLIPMultiFeatProjModel(
        siglip_token_dims=VISION_WIDTH,
        hidden_size=hidden_size,
        device=device,
        dtype=torch.float32,
        operations=comfy.ops.manual_cast,
    )
    randomize(projector, seed)
    return comfy.model_patcher.ModelPatcher(projector, comfy.model_management.get_torch_device(), device)
