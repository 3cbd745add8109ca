"""What we write reads back bit for bit, here and in peft."""

import lora_samples
import peft
import pytest
import torch
from diffusers import FluxTransformer2DModel
from dreamo_routed.dreamo_core.checkpoint import load_dreamo_model, load_lora_file, write_dreamo, write_peft_folder
from dreamo_routed.dreamo_core.checkpoint.lora.layer import LoraLayer
from dreamo_routed.dreamo_core.checkpoint.lora.slots import Slot
from dreamo_routed.dreamo_core.sequence.embeddings import Embeddings
from lora_samples import Sample, matrices
from safetensors.torch import load_file, save_file

ADAPTER = "adapter_model.safetensors"


def tables(placeholders=True):
    stored = lora_samples.embeddings(128, 64)
    rows = stored["dreamo_t5_embedding.weight"][-10:] if placeholders else None
    return Embeddings(stored["dreamo_task_embedding.weight"], stored["dreamo_idx_embedding.weight"], rows)


def read_back(tmp_path, sample):
    save_file(sample.tensors, tmp_path / "in.safetensors")
    return load_lora_file(tmp_path / "in.safetensors").lora


def assert_same(first, second):
    assert first.keys() == second.keys()
    for slot, layer in first.items():
        other = second[slot]
        assert torch.equal(layer.down, other.down) and torch.equal(layer.up, other.up)
        assert layer.down.dtype == other.down.dtype and layer.scale == other.scale


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dreamos_layout_comes_back_bit_for_bit(dtype, tmp_path):
    sample = lora_samples.xlabs(Sample(128, 4))
    sample.tensors = {key: tensor.to(dtype) for key, tensor in sample.tensors.items()}
    lora = read_back(tmp_path, sample)
    write_dreamo(tmp_path / "out.safetensors", lora.layers, tables())
    again = load_dreamo_model(tmp_path / "out.safetensors")
    assert not again.unused
    assert_same(lora.layers, again.lora.layers)
    assert again.embeddings.same_as(tables())
    assert torch.equal(again.embeddings.placeholders, tables().placeholders)
    # Written by hand or by us: the same keys with the same bits.
    written = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(written[key], tensor) for key, tensor in sample.tensors.items())
    assert written.keys() - sample.tensors.keys() == set(lora_samples.embeddings())


def test_from_dreamos_layout_to_peft_and_back_is_bit_for_bit(tmp_path):
    lora = read_back(tmp_path, lora_samples.xlabs(Sample(128, 4)))
    write_peft_folder(tmp_path / "adapter", lora.layers, tables())
    between = load_dreamo_model(tmp_path / "adapter" / ADAPTER)
    assert between.lora.formats == {"PEFT"} and not between.unused
    assert between.embeddings.same_as(tables())
    write_dreamo(tmp_path / "out.safetensors", between.lora.layers, between.embeddings)
    assert_same(lora.layers, load_dreamo_model(tmp_path / "out.safetensors").lora.layers)


def every_layer(alpha=None):
    """Of each kind one, with ranks and alphas that differ."""
    generator = torch.Generator().manual_seed(1)
    layers = {}
    for n, (_, layer, first, rows, columns) in enumerate(lora_samples.DIFFUSERS):
        part = ("q", "k", "v", "mlp")[first] if layer.endswith(("qkv", "linear1")) else ""
        rank = 4 + n % 3
        down, up = matrices(rows * 128, columns * 128, rank, generator)
        layers[Slot(layer, part)] = LoraLayer(down, up, alpha and alpha + n % 2)
    down, up = matrices(256, 128, 4, generator)
    layers[Slot("final_layer.adaLN_modulation.1")] = LoraLayer(down, up, alpha)
    return layers


@pytest.mark.parametrize("alpha", [None, 3.0])
def test_a_peft_folder_comes_back_bit_for_bit_and_is_the_same_in_peft(alpha, tmp_path):
    layers = every_layer(alpha)
    write_peft_folder(tmp_path, layers)
    assert_same(layers, load_lora_file(tmp_path / ADAPTER).lora.layers)

    transformer = FluxTransformer2DModel(
        in_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=32, num_attention_heads=4,
        joint_attention_dim=64, pooled_projection_dim=64, guidance_embeds=True, axes_dims_rope=(8, 12, 12),
    )  # fmt: skip
    model = peft.PeftModel.from_pretrained(transformer, tmp_path)
    loaded = {
        name: layer
        for name, layer in model.base_model.model.named_modules()
        if isinstance(layer, peft.tuners.lora.LoraLayer)
    }
    # The adapter is of block 0; no other block, and no other layer of a similar name, gets weights.
    assert len(loaded) == len(layers)
    for module, layer, first, *_ in lora_samples.DIFFUSERS:
        part = ("q", "k", "v", "mlp")[first] if layer.endswith(("qkv", "linear1")) else ""
        delta = loaded[module].get_delta_weight("default").float()
        torch.testing.assert_close(delta, layers[Slot(layer, part)].delta(), atol=1e-6, rtol=1e-5)
    swapped = loaded["norm_out.linear"].get_delta_weight("default").float()
    shift, scale = layers[Slot("final_layer.adaLN_modulation.1")].delta().chunk(2)
    torch.testing.assert_close(swapped, torch.cat([scale, shift]), atol=1e-6, rtol=1e-5)


def attention_layers():
    return {slot: layer for slot, layer in every_layer().items() if slot.part in ("q", "k", "v")}


def test_separate_q_k_v_are_fused_without_changing_the_product(tmp_path):
    layers = attention_layers()
    write_dreamo(tmp_path / "out.safetensors", layers, tables(placeholders=False))
    fused = load_dreamo_model(tmp_path / "out.safetensors").lora.layers
    assert len(fused) == 3
    for slot, layer in layers.items():
        target = Slot(slot.layer, "qkv" if slot.layer.endswith("linear1") else "")
        row = "qkv".index(slot.part) * 128
        torch.testing.assert_close(fused[target].delta()[row : row + 128], layer.delta(), atol=1e-6, rtol=0)


def test_a_scale_goes_into_up_where_the_layout_has_no_alpha(tmp_path):
    down, up = matrices(128, 128, 8, torch.Generator().manual_seed(0))
    slot = Slot("double_blocks.0.img_attn.proj")
    write_dreamo(tmp_path / "out.safetensors", {slot: LoraLayer(down, up, alpha=4.0)}, None)
    written = load_lora_file(tmp_path / "out.safetensors").lora.layers[slot]
    assert torch.equal(written.up, up * 0.5) and torch.equal(written.down, down) and written.scale == 1.0


A = LoraLayer(*matrices(128, 128, 4, torch.Generator().manual_seed(0)))
REFUSED = {
    "no key for it": (
        {Slot("double_blocks.0.img_mlp.0"): A}, "covers attention and linear2 only, not double_blocks.0.img_mlp.0",
    ),
    "top of the model": ({Slot("img_in"): A}, "not img_in"),
    "two of three": (
        {Slot("double_blocks.0.img_attn.qkv", part): A for part in "qk"}, "only some of q, k and v",
    ),
    "DoRA": (
        {Slot("double_blocks.0.img_attn.proj"): LoraLayer(A.down, A.up, magnitude=torch.ones(128))}, "no DoRA",
    ),
    "scales differ": (
        {Slot("double_blocks.0.img_attn.qkv", part): LoraLayer(A.down, A.up, 1.0 + (part == "k")) for part in "qkv"},
        "different scales",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_dreamos_layout_cannot_hold_is_refused_and_nothing_is_written(what, tmp_path):
    layers, message = REFUSED[what]
    path = tmp_path / "out.safetensors"
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match=message):
        write_dreamo(path, layers, tables())
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_peft_wants_dora_on_all_layers_or_none(tmp_path):
    layers = {
        Slot("double_blocks.0.img_attn.proj"): LoraLayer(A.down, A.up, magnitude=torch.ones(128)),
        Slot("double_blocks.0.txt_attn.proj"): A,
    }
    with pytest.raises(ValueError, match="1 of 2 layers have DoRA"):
        write_peft_folder(tmp_path / "out", layers)
    assert not (tmp_path / "out").exists()
