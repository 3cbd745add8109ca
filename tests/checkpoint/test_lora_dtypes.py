"""Base weights of every dtype and every way of loading: the patched weight is the fp32 merge within its rounding."""

import comfy.ops
import comfy.sd
import comfy.supported_models
import pytest
import torch
from comfy.ldm.flux.model import FluxParams
from comfy.model_patcher import ModelPatcher
from dreamo_routed.dreamo_core.checkpoint.lora.layer import Lora, LoraLayer
from dreamo_routed.dreamo_core.checkpoint.lora.slots import Slot
from dreamo_routed.dreamo_core.host.lora import with_loras
from dreamo_routed.minidreamo.host.small_models import FLUX_CONFIG, host_config, small_flux
from lora_samples import matrices

CPU = torch.device("cpu")

SLOTS = {
    Slot("double_blocks.0.img_attn.qkv", "q"): (128, 128),
    Slot("double_blocks.0.img_attn.qkv", "v"): (128, 128),
    Slot("double_blocks.1.txt_attn.proj"): (128, 128),
    Slot("single_blocks.2.linear1", "qkv"): (384, 128),
    Slot("single_blocks.3.linear2"): (128, 640),
}
FIRST_ROW = {"v": 256}
KEYS = sorted({f"diffusion_model.{slot.layer}.weight" for slot in SLOTS})


def sample_lora(with_dora):
    generator = torch.Generator().manual_seed(4)
    layers = {}
    for slot, (rows, columns) in SLOTS.items():
        down, up = matrices(rows, columns, 8, generator)
        magnitude = 0.5 + torch.rand(rows, generator=generator) if with_dora else None
        layers[slot] = LoraLayer(down, up, alpha=4.0, magnitude=magnitude)
    return Lora("sample", layers)


def merged(weights, lora, strength):
    """The change by hand, in float64."""
    result = {key: weights[key].double() for key in KEYS}
    for slot, layer in lora.layers.items():
        first = FIRST_ROW.get(slot.part, 0)
        rows = result[f"diffusion_model.{slot.layer}.weight"][first : first + layer.up.shape[0]]
        base = rows.clone()
        rows += 0.5 * torch.einsum("or,ri->oi", layer.up.double(), layer.down.double())
        if layer.magnitude is not None:
            rows *= (layer.magnitude.double() / (rows**2).sum(1).sqrt())[:, None]
        rows.copy_(base + strength * (rows - base))
    return result


def fp8_flux(state, scaled):
    """A small Flux that keeps e4m3fn weights and computes in float32, loaded as the host loads a checkpoint."""
    config = comfy.supported_models.Flux(host_config(FLUX_CONFIG, FluxParams))
    config.scaled_fp8 = torch.float8_e4m3fn if scaled else None
    config.set_inference_dtype(torch.float8_e4m3fn, torch.float32)
    model = config.get_model({}, "")
    model.load_model_weights(state, "")
    return ModelPatcher(model, CPU, CPU)


def small_state():
    return {k.removeprefix("diffusion_model."): v for k, v in small_flux().model.state_dict().items()}


def scaled_fp8_flux():
    """One scale per weight of the blocks, as in scaled fp8 checkpoints."""
    state = small_state()
    for key in [k for k in state if k.endswith(".weight") and "blocks" in k]:
        scale = state[key].abs().max() / 400
        state[key] = (state[key] / scale).to(torch.float8_e4m3fn)
        state[key.removesuffix("weight") + "scale_weight"] = scale
    return fp8_flux(state, scaled=True)


# Model, and the spacing of its numbers relative to their size.
MODELS = {
    "float32": (small_flux, 2.0**-23),
    "float16": (lambda: small_flux(dtype=torch.float16), 2.0**-10),
    "bfloat16": (lambda: small_flux(dtype=torch.bfloat16), 2.0**-7),
    "fp8 e4m3fn": (lambda: fp8_flux(small_state(), scaled=False), 2.0**-3),
    "scaled fp8": (scaled_fp8_flux, 2.0**-3),
}


def as_used(patcher, key):
    """The weight that a forward pass computes with, in float32, whether patched ahead or on the way."""
    layer = patcher.get_model_object(key.removesuffix(".weight"))
    weight, _ = comfy.ops.cast_bias_weight(layer, device=CPU, dtype=torch.float32, bias_dtype=torch.float32)[:2]
    scale = getattr(layer, "scale_weight", None)
    return weight.float() * (1.0 if scale is None else scale.float())


def smallest_step(patcher, key):
    """Below this the dtype's numbers are evenly spaced."""
    layer = patcher.get_model_object(key.removesuffix(".weight"))
    if layer.weight.dtype != torch.float8_e4m3fn:
        return 1e-6
    scale = getattr(layer, "scale_weight", None)
    return 2.0**-9 * (1.0 if scale is None else float(scale))


@pytest.mark.parametrize("way", ["loaded whole", "low VRAM"])
@pytest.mark.parametrize("with_dora", [False, True], ids=["LoRA", "DoRA"])
@pytest.mark.parametrize("name", MODELS)
def test_the_patched_weight_is_the_merge(name, with_dora, way):
    make, spacing = MODELS[name]
    base = make()
    before = {key: as_used(base, key) for key in KEYS}
    stored = {key: value.clone() for key, value in base.model.state_dict().items()}
    lora, strength = sample_lora(with_dora), 0.75
    patcher = with_loras(base, [(lora, strength)])
    patcher.load(CPU, lowvram_model_memory=1 if way == "low VRAM" else 0, full_load=way == "loaded whole")
    assert patcher.model.model_lowvram == (way == "low VRAM")
    expected = merged(before, lora, strength)
    for key in KEYS:
        actual = as_used(patcher, key).double()
        # Two spacings: the host rounds the change and the sum, and rounds fp8 at random up or down.
        allowed = 2 * spacing * expected[key].abs().maximum(before[key].double().abs()) + 2 * smallest_step(
            patcher, key
        )
        assert ((actual - expected[key]).abs() <= allowed).all(), key
        assert not torch.allclose(actual.float(), before[key], atol=1e-2)
    patcher.unpatch_model(CPU)
    assert all(torch.equal(stored[key], value) for key, value in base.model.state_dict().items())


def test_a_lora_of_the_host_before_or_after_ours_adds_up():
    lora = sample_lora(with_dora=False)
    generator = torch.Generator().manual_seed(9)
    down, up = matrices(384, 128, 4, generator)
    other = {"diffusion_model.single_blocks.2.linear1_qkv.lora_down.weight": down,
             "diffusion_model.single_blocks.2.linear1_qkv.lora_up.weight": up}  # fmt: skip
    key = "diffusion_model.single_blocks.2.linear1.weight"
    results = []
    for order in ("host first", "ours first"):
        patcher = small_flux()
        if order == "ours first":
            patcher = with_loras(patcher, [(lora, 1.0)])
        patcher, _ = comfy.sd.load_lora_for_models(patcher, None, other, 0.5, 0)
        if order == "host first":
            patcher = with_loras(patcher, [(lora, 1.0)])
        patcher.load(CPU, full_load=True)
        results.append(as_used(patcher, key))
        patcher.unpatch_model(CPU)
    expected = small_flux().get_model_object(key).clone()
    expected[:384] += lora.layers[Slot("single_blocks.2.linear1", "qkv")].delta() + 0.5 * up.float() @ down.float()
    for result in results:
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
