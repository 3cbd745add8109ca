"""A small SDXL of the host's own classes with random weights, and RealCustom weights that fit it.

Every size is a real one made small; nothing else differs. The pictures they make are noise.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import comfy.ldm.models.autoencoder
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import torch

from ...dreamo_core.host.realcustom import RealCustomModel, attention_places, make_realcustom
from ...dreamo_core.realcustom.projector import Projector
from ...dreamo_core.realcustom.weights import PROJECTOR_PREFIX, sort_keys
from ...dreamo_core.vision.files import read_vision
from ...dreamo_core.vision.vit import ViT, ViTConfig
from .small_models import VAE_CONFIG, randomize

CLIP_L_WIDTH, CLIP_G_WIDTH = 32, 48
CONTEXT = CLIP_L_WIDTH + CLIP_G_WIDTH

SDXL_CONFIG = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4], "num_heads": -1, "num_head_channels": 16, "use_spatial_transformer": True,
    "use_linear_in_transformer": True, "context_dim": CONTEXT, "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2], "transformer_depth_middle": 2, "legacy": False,
    "num_classes": "sequential", "adm_in_channels": CLIP_G_WIDTH + 6 * 256, "use_temporal_attention": False,
    "use_temporal_resblock": False,
}  # fmt: skip
"""SDXL's UNet in small: two kinds of resolution with attention, the coarser one deeper."""

SD15_CONFIG = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 2], "num_heads": 4, "use_spatial_transformer": True, "use_linear_in_transformer": False,
    "context_dim": CLIP_L_WIDTH, "transformer_depth": [1, 1, 0], "transformer_depth_output": [1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1, "legacy": False, "use_temporal_attention": False,
}  # fmt: skip
"""SD 1.5's UNet in small."""


def _small(width: int) -> dict[str, int]:
    return {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 2, "num_hidden_layers": 3}


TEXT_CONFIG = {"clip_l_model_config": _small(CLIP_L_WIDTH), "clip_g_model_config": _small(CLIP_G_WIDTH)}

SIGLIP_CONFIG = ViTConfig(width=64, depth=3, heads=16, mlp=64, patch=14, grid=(27, 27))
DINO_CONFIG = ViTConfig(
    width=64, depth=3, heads=16, mlp=64, patch=14, grid=(37, 37), class_token=True, registers=4, layer_scale=True
)
"""The encoders, narrow and low."""
SHALLOW_DEPTH = 21
"""The least in which the shallow variant finds the layers that it reads."""


def _unet(config_class: Any, config: dict[str, Any], seed: int) -> Any:
    model_config = config_class(dict(config))
    model_config.set_inference_dtype(torch.float32, None)
    model = model_config.get_model({}, "")
    randomize(model.diffusion_model, seed)
    load_device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, load_device, comfy.model_management.unet_offload_device())


def small_sdxl(seed: int = 0, **config: Any) -> Any:
    """A ModelPatcher around a small SDXL; `config` changes entries of `SDXL_CONFIG`."""
    return _unet(comfy.supported_models.SDXL, {**SDXL_CONFIG, **config}, seed)


def small_sd15(seed: int = 0) -> Any:
    """A ModelPatcher around a small SD 1.5."""
    return _unet(comfy.supported_models.SD15, SD15_CONFIG, seed)


def _clip(model: Any, tokenizer: Any, seed: int) -> Any:
    target = SimpleNamespace(params={}, clip=model, tokenizer=tokenizer)
    clip = comfy.sd.CLIP(target, model_options={**TEXT_CONFIG, "dtype": torch.float32})
    randomize(clip.cond_stage_model, seed)
    return clip


def small_sdxl_clip(seed: int = 0) -> Any:
    """Both CLIPs of SDXL, small, with the real tokenizers."""
    return _clip(comfy.sdxl_clip.SDXLClipModel, comfy.sdxl_clip.SDXLTokenizer, seed)


def small_sd15_clip(seed: int = 0) -> Any:
    """SD 1.5's CLIP, small, with the real tokenizer."""
    return _clip(comfy.sd1_clip.SD1ClipModel, comfy.sd1_clip.SD1Tokenizer, seed)


def small_sdxl_vae(seed: int = 0) -> Any:
    """A VAE of SDXL's kind, four latent channels at an eighth of the size."""
    config = {"embed_dim": 4, "ddconfig": {**VAE_CONFIG["ddconfig"], "z_channels": 4}}
    autoencoder = comfy.ldm.models.autoencoder.AutoencoderKL(**config)
    randomize(autoencoder, seed)
    return comfy.sd.VAE(sd=autoencoder.state_dict(), config={"params": config})


def _random(module: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    randomize(module, seed)
    return module.state_dict()


def small_realcustom_state(model: Any, shallow: bool = False, seed: int = 0) -> dict[str, torch.Tensor]:
    """A RealCustom file's tensors for a small UNet, under the released names of the projector and the host's of the
    cross-attentions."""
    width = SIGLIP_CONFIG.width + DINO_CONFIG.width
    unet = model.get_model_object("diffusion_model")
    modules = dict(unet.named_modules())
    context = next(iter(modules[place.name].to_k.weight.shape[1] for place in attention_places(unet)))
    projector = _random(Projector(width, context, shallow), seed + 1)
    state = {PROJECTOR_PREFIX + key: tensor for key, tensor in projector.items()}
    generator = torch.Generator().manual_seed(seed + 2)
    for place in attention_places(unet):
        shape = modules[place.name].to_k.weight.shape
        for half in "kv":
            weight = torch.randn(shape, generator=generator) / shape[1] ** 0.5
            state[f"{place.name}.to_{half}_vision.weight"] = weight
    return state


def small_realcustom(model: Any, shallow: bool = False, seed: int = 0) -> RealCustomModel:
    """A REALCUSTOM_MODEL for a small UNet: both encoders, projector, keys and values, all random."""
    state = small_realcustom_state(model, shallow, seed)
    siglip, dino = (
        read_vision(_random(ViT(replace(config, depth=SHALLOW_DEPTH) if shallow else config), seed + n), name)
        for n, (name, config) in enumerate((("small siglip", SIGLIP_CONFIG), ("small dinov2", DINO_CONFIG)), 3)
    )
    return make_realcustom(sort_keys(state, "small RealCustom"), siglip, dino)
