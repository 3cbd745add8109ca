"""Small models of other families with weights that nobody has set: what references are refused on."""

import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.ldm.chroma.model import ChromaParams
from dreamo_routed.minidreamo.host import small_models

SMALL_UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
    "channel_mult": [1, 2], "num_heads": 2, "use_spatial_transformer": True, "context_dim": 16,
    "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1,
    "use_linear_in_transformer": False, "legacy": False, "use_temporal_attention": False,
}  # fmt: skip


def patcher(model):
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def small_unet(config_class, **config):
    model_config = config_class({**SMALL_UNET, **config})
    model_config.set_inference_dtype(torch.float32, None)
    return patcher(model_config.get_model({}, ""))


def small_chroma():
    config = {
        **small_models.FLUX_CONFIG, "image_model": "chroma", "in_dim": 64, "out_dim": 128, "hidden_dim": 64,
        "n_layers": 1,
    }  # fmt: skip
    model_config = comfy.supported_models.Chroma(small_models.host_config(config, ChromaParams))
    model_config.set_inference_dtype(torch.float32, None)
    return patcher(model_config.get_model({}, ""))
