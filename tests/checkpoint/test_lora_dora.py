"""DoRA against peft: what the host computes from our patches is peft's merged weight."""

import comfy.lora
import peft
import pytest
import torch
from diffusers import FluxTransformer2DModel
from dreamo_routed.dreamo_core.checkpoint import load_dreamo_model, load_lora_file, write_peft_folder
from dreamo_routed.dreamo_core.host.lora import with_loras
from dreamo_routed.dreamo_core.sequence.embeddings import Embeddings
from dreamo_routed.minidreamo.host.small_models import small_flux


def diffusers_twin():
    """diffusers' model in the sizes of `small_flux`."""
    return FluxTransformer2DModel(
        in_channels=64, num_layers=2, num_single_layers=4, attention_head_dim=32, num_attention_heads=4,
        joint_attention_dim=64, pooled_projection_dim=64, guidance_embeds=True, axes_dims_rope=(8, 12, 12),
    )  # fmt: skip


# diffusers' module, the host's weight and its rows, by hand.
MODULES = {
    "transformer_blocks.1.attn.to_q": ("double_blocks.1.img_attn.qkv", 0, 128),
    "transformer_blocks.1.attn.to_v": ("double_blocks.1.img_attn.qkv", 256, 128),
    "transformer_blocks.1.attn.to_out.0": ("double_blocks.1.img_attn.proj", 0, 128),
    "single_transformer_blocks.3.attn.to_k": ("single_blocks.3.linear1", 128, 128),
    "single_transformer_blocks.3.proj_mlp": ("single_blocks.3.linear1", 384, 512),
    "single_transformer_blocks.3.proj_out": ("single_blocks.3.linear2", 0, 128),
}
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_mlp", "proj_out"]


def trained_peft(folder, **settings):
    """A peft model with random DoRA or LoRA weights, saved by peft."""
    torch.manual_seed(2)
    model = peft.get_peft_model(
        diffusers_twin(), peft.LoraConfig(r=8, lora_alpha=4, target_modules=TARGETS, **settings)
    )
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            parameter.data = torch.randn_like(parameter) * 0.1
        elif "magnitude" in name:
            parameter.data = parameter.data * (0.5 + torch.rand_like(parameter))
    model.save_pretrained(folder)
    return model


def base_weights(model):
    """Weights before the adapter, by the host's names; rows that no adapter touches are zero."""
    host = {name: torch.zeros_like(p) for name, p in small_flux().model.named_parameters()}
    for module, (layer, row, length) in MODULES.items():
        linear = model.base_model.model.get_submodule(module).base_layer
        host[f"diffusion_model.{layer}.weight"][row : row + length] = linear.weight
        host[f"diffusion_model.{layer}.bias"][row : row + length] = linear.bias
    return host


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"use_dora": True, "use_rslora": True}, {"lora_bias": True}])
def test_the_patched_weight_is_pefts_merged_weight(settings, tmp_path):
    model = trained_peft(tmp_path, **settings)
    patcher = with_loras(small_flux(), [(load_lora_file(tmp_path / "adapter_model.safetensors").lora, 1.0)])
    base = base_weights(model)
    model.merge_adapter(safe_merge=True)
    for module, (layer, row, length) in MODULES.items():
        merged = model.base_model.model.get_submodule(module).base_layer
        for part, expected in (("weight", merged.weight), ("bias", merged.bias)):
            key = f"diffusion_model.{layer}.{part}"
            patched = comfy.lora.calculate_weight(patcher.patches.get(key, []), base[key].clone(), key)
            torch.testing.assert_close(patched[row : row + length], expected, atol=2e-6, rtol=1e-5)


def test_strength_goes_from_the_base_weight_to_pefts(tmp_path):
    model = trained_peft(tmp_path, use_dora=True)
    lora = load_lora_file(tmp_path / "adapter_model.safetensors").lora
    key = "diffusion_model.double_blocks.1.img_attn.proj.weight"
    base = base_weights(model)[key]
    half, whole = (
        comfy.lora.calculate_weight(with_loras(small_flux(), [(lora, s)]).patches[key], base.clone(), key)
        for s in (0.5, 1.0)
    )
    torch.testing.assert_close(half, (base + whole) / 2)
    assert not torch.allclose(whole, base, atol=1e-2)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
def test_a_written_folder_is_the_same_model_in_peft(settings, tmp_path):
    trained_peft(tmp_path / "first", **settings)
    lora = load_lora_file(tmp_path / "first" / "adapter_model.safetensors").lora
    write_peft_folder(tmp_path / "second", lora.layers, Embeddings(torch.ones(2, 128), torch.ones(10, 128)))
    torch.manual_seed(2)
    again = peft.PeftModel.from_pretrained(diffusers_twin(), tmp_path / "second")
    first = peft.PeftModel.from_pretrained(again.unload(), tmp_path / "first")
    state = peft.get_peft_model_state_dict(first)
    torch.manual_seed(2)
    second = peft.get_peft_model_state_dict(peft.PeftModel.from_pretrained(diffusers_twin(), tmp_path / "second"))
    assert state.keys() == second.keys()
    assert all(torch.equal(state[key], second[key]) for key in state)
    assert load_dreamo_model(tmp_path / "second" / "adapter_model.safetensors").lora is not None
