"""Every layout at FLUX.1's true sizes: what the host computes from our patches is B · A · scale on the right rows."""

import json

import comfy.lora
import comfy.model_patcher
import comfy.utils
import lora_samples
import peft
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from dreamo_routed.dreamo_core.checkpoint import load_lora_file
from dreamo_routed.dreamo_core.checkpoint.describe import describe, short_description
from dreamo_routed.dreamo_core.host.lora import with_loras
from lora_host import CONFIG, SMALL_CONFIG, TOLERANCE, assert_changes, change, host_model, largest
from lora_samples import Sample
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def flux():
    """FLUX.1 with one block of each kind at its true sizes."""
    return host_model(CONFIG)


def diffusers_model():
    """The same as diffusers has it; memory that nobody touches is never taken."""
    with torch.device("meta"):
        model = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    return model.to_empty(device="cpu")


def attention_only(prefix):
    return lambda s: lora_samples.diffusers(s, prefix, modules=lora_samples.ATTENTION)


TRUE_SIZE = {
    "XLabs as DreamO writes it": lora_samples.xlabs,
    "diffusers": attention_only("transformer."),
    "BFL": lambda s: lora_samples.original(s, layers=lora_samples.ORIGINAL_ATTENTION),
    "ComfyUI's converted DreamO": lora_samples.comfyui_converted,
    "kohya with alpha": lambda s: lora_samples.kohya(s, layers=lora_samples.ORIGINAL_ATTENTION),
    "PEFT state dict": attention_only("base_model.model."),
}

SMALL = {
    "XLabs with dots": lambda s: lora_samples.xlabs(s, dotted=True),
    "BFL, every layer": lora_samples.original,
    "ComfyUI": lambda s: lora_samples.original(s, "diffusion_model.", ("lora_down", "lora_up")),
    "kohya, every layer": lora_samples.kohya,
    "XLabs without a prefix": lambda s: lora_samples.xlabs(s, "{block}_processor_{name}"),
    "XLabs with another prefix": lambda s: lora_samples.xlabs(s, "transformer.{block}_attn_processor.{name}"),
    "diffusers, every layer": lora_samples.diffusers,
    "diffusers without a prefix": lambda s: lora_samples.diffusers(s, prefix=""),
    "PEFT state dict with an adapter's name": lambda s: lora_samples.renamed(
        lora_samples.diffusers(s, "base_model.model."), {".weight": ".default.weight"}
    ),
    "diffusers in kohya's spelling": lambda s: lora_samples.renamed(
        lora_samples.diffusers(s, ""), {"lora_A": "lora_down", "lora_B": "lora_up"}, flat_prefix="lora_transformer_"
    ),
    "old attention processors' tails": lambda s: lora_samples.renamed(
        lora_samples.diffusers(s), {"lora_A": "lora.down", "lora_B": "lora.up"}
    ),
    "linear layers' tails": lambda s: lora_samples.renamed(
        lora_samples.diffusers(s), {"lora_A": "lora_linear_layer.down", "lora_B": "lora_linear_layer.up"}
    ),
    "tails without weight": lambda s: lora_samples.renamed(lora_samples.diffusers(s), {".weight": ""}),
}


def applied(patcher, path, strength=1.0):
    return with_loras(patcher, [(load_lora_file(path).lora, strength)])


def check_sample(sample, patcher, tmp_path):
    save_file(sample.tensors, tmp_path / "lora.safetensors")
    file = load_lora_file(tmp_path / "lora.safetensors")
    assert not file.unused
    assert_changes(with_loras(patcher, [(file.lora, 0.75)]), sample, 0.75)


@pytest.mark.parametrize("name", TRUE_SIZE)
def test_the_change_is_b_a_scale_on_the_exact_rows(name, flux, tmp_path):
    check_sample(TRUE_SIZE[name](Sample()), flux, tmp_path)


@pytest.mark.parametrize("name", SMALL)
def test_rarer_spellings_land_on_the_same_rows(name, tmp_path):
    check_sample(SMALL[name](Sample(hidden=128, rank=8)), host_model(SMALL_CONFIG), tmp_path)


# diffusers reads XLabs keys with dots only.
DIFFUSERS_READS = {"XLabs with dots": SMALL["XLabs with dots"]} | {
    name: TRUE_SIZE[name] for name in ("diffusers", "kohya with alpha")
}


def host_target(module):
    """The host's own map of diffusers' names, which shares nothing with ours: key, rows, and what swaps halves."""
    target = comfy.utils.flux_to_diffusers(CONFIG, output_prefix="diffusion_model.")[f"{module}.weight"]
    return (target, None) if isinstance(target, str) else target


def assert_same_as_peft(patcher, transformer, adapter):
    """Every layer that peft changes, and no other, changes as peft computes it."""
    changes = {}
    for module, layer in transformer.named_modules():
        if not isinstance(layer, peft.tuners.lora.LoraLayer):
            continue
        key, rows, *swap = host_target(module)
        if key not in changes:
            changes[key] = change(patcher, key)
        expected = layer.get_delta_weight(adapter).float()
        assert largest(expected) > 1e-3
        actual = changes[key] if rows is None else changes[key].narrow(*rows)
        actual.sub_(swap[0](expected) if swap else expected)
    assert changes.keys() == patcher.patches.keys()
    assert max(map(largest, changes.values())) < TOLERANCE


@pytest.mark.parametrize("name", DIFFUSERS_READS)
def test_the_change_is_what_diffusers_and_peft_compute(name, flux, tmp_path):
    sample = DIFFUSERS_READS[name](Sample())
    # In float32: diffusers multiplies alpha into the stored tensors, which would round in bfloat16.
    tensors = {key: tensor.float() for key, tensor in sample.tensors.items()}
    save_file(tensors, tmp_path / "lora.safetensors")
    state, alphas = FluxPipeline.lora_state_dict(dict(tensors), return_alphas=True)
    transformer = diffusers_model()
    transformer.load_lora_adapter(state, network_alphas=alphas, adapter_name="oracle")
    assert_same_as_peft(applied(flux, tmp_path / "lora.safetensors"), transformer, "oracle")


def random_peft_folder(folder, **settings):
    """An adapter of a FLUX.1 transformer with one block of each kind, made and saved by peft itself."""
    model = peft.get_peft_model(diffusers_model(), peft.LoraConfig(**settings))
    generator = torch.Generator().manual_seed(11)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    model.save_pretrained(folder)
    return model


PEFT_SETTINGS = {
    "alpha": {"r": 128, "lora_alpha": 64},
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
    assert_same_as_peft(patcher, model.base_model.model, "default")
    assert "diffusion_model.final_layer.adaLN_modulation.1.weight" in patcher.patches


def test_settings_in_the_header_for_a_text_encoder_do_not_count(tmp_path):
    sample = lora_samples.diffusers(Sample(hidden=128, rank=8))
    metadata = {"text_encoder.r": 4, "text_encoder.lora_alpha": 1}
    save_file(sample.tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(metadata)})
    assert_changes(applied(host_model(SMALL_CONFIG), tmp_path / "a.safetensors"), sample)


def test_settings_in_the_header_count_as_diffusers_reads_them(tmp_path):
    sample = lora_samples.diffusers(Sample(hidden=128, rank=8), scale=0.25)
    metadata = {f"transformer.{k}": v for k, v in {"r": 8, "lora_alpha": 2, "target_modules": ["to_q"]}.items()}
    save_file(sample.tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(metadata)})
    assert_changes(applied(host_model(SMALL_CONFIG), tmp_path / "a.safetensors"), sample)


@pytest.mark.parametrize("name", ["dreamo_sft_lora.safetensors", "dreamo_dpo_lora.safetensors", "UMO_UNO.safetensors"])
def test_settings_in_the_header_of_released_files_do_not_count(tmp_path, name):
    """The release reads its files with `load_file`, which drops the header: scale 1."""
    metadata = {f"transformer.{k}": v for k, v in {"r": 8, "lora_alpha": 16}.items()}
    sample = lora_samples.diffusers(Sample(hidden=128, rank=8), scale=1.0)
    save_file(sample.tensors, tmp_path / name, {"lora_adapter_metadata": json.dumps(metadata)})
    assert_changes(applied(host_model(SMALL_CONFIG), tmp_path / name), sample)
    assert "not used, as in the release" in short_description(load_lora_file(tmp_path / name).lora)
    assert "none stored (scale 1)" in describe(tmp_path / name)
    # The same file under a user's name has the scale that it says, and the node says so.
    other = tmp_path / "mine.safetensors"
    (tmp_path / name).rename(other)
    lora = load_lora_file(other).lora
    assert {layer.scale for layer in lora.layers.values()} == {2.0}
    assert short_description(lora).endswith("\nscales from the PEFT settings in its header")


def test_several_ranks_without_alpha_have_the_scale_1_each(tmp_path):
    """As the host has it for the same file; said, because diffusers takes the first layer's rank for all."""
    sample = Sample(hidden=128, rank=8)
    for n, (module, layer, first, rows, columns) in enumerate(lora_samples.ATTENTION):
        key = "transformer." + module
        sample.add(layer, first, rows, columns, f"{key}.lora_A.weight", f"{key}.lora_B.weight", rank=4 + 4 * (n % 3))
    save_file(sample.tensors, tmp_path / "a.safetensors")
    assert_changes(applied(host_model(SMALL_CONFIG), tmp_path / "a.safetensors"), sample)
    lora = load_lora_file(tmp_path / "a.safetensors").lora
    assert len(lora.ranks) == 3 and {layer.scale for layer in lora.layers.values()} == {1.0}
    assert "several ranks and no alpha: each layer has the scale 1" in short_description(lora)
    plain = lora_samples.diffusers(Sample(hidden=128, rank=8))
    save_file(plain.tensors, tmp_path / "b.safetensors")
    assert "\n" not in short_description(load_lora_file(tmp_path / "b.safetensors").lora)
