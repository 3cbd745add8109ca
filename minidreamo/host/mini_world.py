"""The trained mini world as host objects: what the demo loads in place of FLUX.1, its text encoders and its VAE."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.ldm.models.autoencoder
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.text_encoders.flux
import torch
from safetensors import safe_open

from ...dreamo_core.checkpoint import DreamOModel, load_dreamo_model
from ...dreamo_core.flux import host_names
from ..autoencoder import BlockAutoencoder
from .small_models import FLUX_CONFIG, VAE_CONFIG, make_flux

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
TEXT_TOKENS = 36
"""T5 tokens a prompt is padded to, as in training."""


def _path(name: str) -> Path:
    path = WEIGHTS / f"{name}.safetensors"
    if not path.exists():
        raise ValueError(f"The mini world's {path} is missing; install the pack again, or use random weights.")
    return path


def read(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Float32 tensors and the config of one of the mini world's files.

    Raises:
        ValueError: the file is not there.
    """
    with safe_open(_path(name), "pt") as file:
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}
        return tensors, json.loads((file.metadata() or {}).get("config", "{}"))


def mini_flux() -> Any:
    """A ModelPatcher around the mini world's transformer."""
    state, config = read("flux")
    model = make_flux(
        {
            **FLUX_CONFIG,
            "vec_in_dim": config["pooled_projection_dim"],
            "context_in_dim": config["joint_attention_dim"],
            "hidden_size": config["attention_head_dim"] * config["num_attention_heads"],
            "num_heads": config["num_attention_heads"],
            "depth": config["num_layers"],
            "depth_single_blocks": config["num_single_layers"],
            "axes_dim": list(config["axes_dims_rope"]),
            "guidance_embed": config["guidance_embeds"],
        }
    )
    flux = model.diffusion_model
    flux.load_state_dict(host_names(state, flux.state_dict().keys()))
    load_device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, load_device, comfy.model_management.unet_offload_device())


def mini_dreamo() -> DreamOModel:
    """The mini world's DreamO file: embeddings, placeholders and LoRA."""
    return load_dreamo_model(_path("dreamo"))


def mini_text_encoders() -> Any:
    """A CLIP of FLUX.1's kind with the mini world's T5 and CLIP-L and the real tokenizers."""
    (t5, t5_config), (clip_l, clip_config) = read("t5"), read("clip")
    target = SimpleNamespace(
        params={}, clip=comfy.text_encoders.flux.FluxClipModel, tokenizer=comfy.text_encoders.flux.FluxTokenizer
    )
    sizes = ("d_model", "d_ff", "d_kv", "num_heads", "num_layers")
    clip_sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
    options = {
        "t5xxl_model_config": {name: t5_config[name] for name in sizes},
        "clip_l_model_config": {name: clip_config[name] for name in clip_sizes},
        "dtype": torch.float32,
    }
    clip = comfy.sd.CLIP(target, tokenizer_data={"t5xxl_min_length": TEXT_TOKENS}, model_options=options)
    # As T5TokenizerOptions does, so that no node takes the text length of the released models for this one's.
    clip.set_tokenizer_option("t5xxl_min_length", TEXT_TOKENS)
    for state in (t5, clip_l):
        missing, unexpected = clip.load_sd(state)
        # FLUX.1 takes CLIP-L's pooled output unprojected.
        wrong = [*unexpected, *(key for key in missing if key != "text_projection.weight")]
        if wrong:
            raise ValueError(f"The mini world's text encoders do not fit this host: {wrong[:3]}.")
    return clip


class MiniVae(comfy.sd.VAE):
    """The host's VAE around the mini world's autoencoder, which is of none of the kinds that the host knows itself."""

    def __init__(self):
        # Any small autoencoder serves to have the host set everything else up.
        stand_in = comfy.ldm.models.autoencoder.AutoencoderKL(**VAE_CONFIG).state_dict()
        super().__init__(sd=stand_in, config={"params": VAE_CONFIG})
        state, _ = read("autoencoder")
        self.first_stage_model = BlockAutoencoder().train(False)
        self.first_stage_model.load_state_dict(state)
        self.first_stage_model.to(self.vae_dtype)
        self.latent_channels = 16
        offload_device = comfy.model_management.vae_offload_device()
        self.patcher = comfy.model_patcher.ModelPatcher(self.first_stage_model, self.device, offload_device)
        self.size = None
