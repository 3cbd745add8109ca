"""Every layout at FLUX.1's true sizes: what the host computes from our patches is B · A · scale on the right rows."""

import json

import comfy.lora
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import lora_samples
import peft
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from dreamo_routed.dreamo_core.checkpoint import load_lora_file
from dreamo_routed.dreamo_core.host.lora import with_loras
from dreamo_routed.dreamo_core.host.small_models import FLUX_CONFIG
from lora_samples import Sample
from safetensors.torch import save_file

CONFIG = {
    **FLUX_CONFIG,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "num_heads": 24,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
}


@pytest.fixture(scope="module")
def flux():
    """FLUX.1 with one block of each kind at its true sizes; the weights are shapes only."""
    config = comfy.supported_models.Flux(CONFIG)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="meta")
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


@pytest.fixture(scope="module")
def diffusers_shapes():
    with torch.device("meta"):
        return FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)


SAMPLES = {
    "XLabs as DreamO writes it": lambda s: lora_samples.xlabs(s),
    "XLabs without a prefix": lambda s: lora_samples.xlabs(s, "{block}_processor_{name}"),
    "XLabs with another prefix": lambda s: lora_samples.xlabs(s, "transformer.{block}_attn_processor.{name}"),
    "XLabs with dots": lambda s: lora_samples.xlabs(s, dotted=True),
    "diffusers": lambda s: lora_samples.diffusers(s),
    "diffusers without a prefix": lambda s: lora_samples.diffusers(s, prefix=""),
    "BFL": lambda s: lora_samples.original(s),
    "ComfyUI": lambda s: lora_samples.original(s, "diffusion_model.", ("lora_down", "lora_up")),
    "ComfyUI's converted DreamO": lambda s: lora_samples.comfyui_converted(s),
    "kohya with alpha": lambda s: lora_samples.kohya(s),
    "PEFT state dict": lambda s: lora_samples.diffusers(s, prefix="base_model.model."),
}


def applied(patcher, path, strength=1.0):
    return with_loras(patcher, [(load_lora_file(path).lora, strength)])


def change(patcher, key):
    """What the host's own computation adds to a weight of zeros."""
    shape = dict(patcher.model.named_parameters())[key].shape
    return comfy.lora.calculate_weight(patcher.patches[key], torch.zeros(shape), key)


def assert_changes(patcher, sample, strength=1.0):
    assert set(patcher.patches) == set(sample.expected)
    for key, changes in sample.deltas():
        rest = change(patcher, key)
        for row, delta in changes:
            rows = rest[row : row + len(delta)]
            torch.testing.assert_close(rows, strength * delta, atol=2e-5, rtol=1e-4)
            rows.zero_()
        assert not rest.any(), f"rows of {key} changed that the file does not touch"


@pytest.mark.parametrize("name", SAMPLES)
def test_the_change_is_b_a_scale_on_the_exact_rows(name, flux, tmp_path):
    sample = SAMPLES[name](Sample())
    save_file(sample.tensors, tmp_path / "lora.safetensors")
    file = load_lora_file(tmp_path / "lora.safetensors")
    assert not file.unused
    assert_changes(with_loras(flux, [(file.lora, 0.75)]), sample, 0.75)


# diffusers reads XLabs keys with dots only, and ComfyUI's only with lora_down and lora_up.
DIFFUSERS_READS = ("XLabs with dots", "diffusers", "ComfyUI", "kohya with alpha")


def host_rows(module):
    """The host's own map of diffusers' names, which shares nothing with ours."""
    target = comfy.utils.flux_to_diffusers(CONFIG, output_prefix="diffusion_model.")[f"{module}.weight"]
    return (target, None) if isinstance(target, str) else target


def assert_same_as_peft(patcher, transformer, adapter):
    seen, changes = set(), {}
    for module, layer in transformer.named_modules():
        if not isinstance(layer, peft.tuners.lora.LoraLayer) or adapter not in layer.scaling:
            continue
        key, rows = host_rows(module)
        if key not in changes:
            changes[key] = change(patcher, key)
        actual = changes[key] if rows is None else changes[key].narrow(*rows)
        torch.testing.assert_close(actual, layer.get_delta_weight(adapter).float(), atol=2e-5, rtol=1e-4)
        seen.add(key)
    assert seen == set(patcher.patches)


@pytest.mark.parametrize("name", DIFFUSERS_READS)
def test_the_change_is_what_diffusers_and_peft_compute(name, flux, diffusers_shapes, tmp_path):
    sample = SAMPLES[name](Sample())
    # In float32: diffusers multiplies alpha into the stored tensors, which would round in bfloat16.
    tensors = {key: tensor.float() for key, tensor in sample.tensors.items()}
    save_file(tensors, tmp_path / "lora.safetensors")
    state, alphas = FluxPipeline.lora_state_dict(dict(tensors), return_alphas=True)
    diffusers_shapes.load_lora_adapter(state, network_alphas=alphas, adapter_name="oracle", low_cpu_mem_usage=True)
    try:
        assert_same_as_peft(applied(flux, tmp_path / "lora.safetensors"), diffusers_shapes, "oracle")
    finally:
        diffusers_shapes.unload_lora()


def random_peft_folder(folder, **settings):
    """An adapter of a FLUX.1 transformer with one block of each kind, made and saved by peft itself."""
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    model = peft.get_peft_model(transformer, peft.LoraConfig(**settings))
    generator = torch.Generator().manual_seed(11)
    state = {
        key: torch.randn(value.shape, generator=generator) * 0.05
        for key, value in peft.get_peft_model_state_dict(model).items()
    }
    peft.set_peft_model_state_dict(model, state, low_cpu_mem_usage=True)
    model.save_pretrained(folder)
    return model


PEFT_SETTINGS = {
    "alpha": {"r": 128, "lora_alpha": 64},
    "rsLoRA": {"r": 16, "lora_alpha": 8, "use_rslora": True},
    "patterns": {
        "r": 32,
        "lora_alpha": 32,
        "rank_pattern": {"attn.to_q": 8, "single_transformer_blocks.0.proj_out": 24},
        "alpha_pattern": {"attn.to_k": 4, "^transformer_blocks.0.attn.to_v": 96},
    },
    "patterns and rsLoRA": {
        "r": 8, "lora_alpha": 16, "use_rslora": True, "rank_pattern": {"to_out.0": 4}, "alpha_pattern": {"to_out.0": 3},
    },
}  # fmt: skip

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "proj_mlp", "proj_out", "norm_out.linear", "x_embedder"]


@pytest.mark.parametrize("name", PEFT_SETTINGS)
def test_a_peft_folder_is_scaled_as_peft_scales_it(name, flux, tmp_path):
    model = random_peft_folder(tmp_path, target_modules=TARGETS, **PEFT_SETTINGS[name])
    patcher = applied(flux, tmp_path / "adapter_model.safetensors")
    transformer = model.base_model.model
    seen = set()
    for module, layer in transformer.named_modules():
        if not isinstance(layer, peft.tuners.lora.LoraLayer):
            continue
        key, rows, *swap = host_target(module)
        actual = change(patcher, key)
        actual = actual if rows is None else actual.narrow(*rows)
        expected = layer.get_delta_weight("default")
        torch.testing.assert_close(actual, swap[0](expected) if swap else expected, atol=1e-5, rtol=1e-4)
        seen.add(key)
    assert seen == set(patcher.patches)
    assert any("adaLN" in key for key in seen)


def host_target(module):
    target = comfy.utils.flux_to_diffusers(CONFIG, output_prefix="diffusion_model.")[f"{module}.weight"]
    return (target, None) if isinstance(target, str) else target


def test_settings_in_the_header_count_as_diffusers_reads_them(flux, tmp_path):
    sample = lora_samples.diffusers(Sample(), scale=0.25)
    metadata = {f"transformer.{k}": v for k, v in {"r": 128, "lora_alpha": 32, "target_modules": ["to_q"]}.items()}
    save_file(sample.tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(metadata)})
    assert_changes(applied(flux, tmp_path / "a.safetensors"), sample)
