"""Our ViT against timm's, and the three layouts its files come in."""

import pytest
import torch
import transformers
from dreamo_routed.dreamo_core.vision.files import read_vision
from dreamo_routed.dreamo_core.vision.vit import ViT

timm = pytest.importorskip("timm")


def randomized(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def siglip():
    return randomized(
        timm.create_model(
            "vit_so400m_patch14_siglip_384", embed_dim=48, depth=4, num_heads=4, mlp_ratio=2.0, img_size=56,
            pretrained=False, num_classes=0,
        )
    )  # fmt: skip


def dino():
    return randomized(
        timm.create_model(
            "vit_large_patch14_reg4_dinov2", embed_dim=32, depth=4, num_heads=4, img_size=98, pretrained=False,
            num_classes=0, dynamic_img_size=True,
        ),
        1,
    )  # fmt: skip


def ours(state, name="file", **options):
    file = read_vision(state, name, heads=4, **options)
    vit = ViT(file.config).eval()
    vit.load_state_dict(file.weights)
    return vit, file


def difference(found, expected):
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))


# 56 is the stored size of the first, and another than the stored 98 of the second: its positions are resampled.
@pytest.mark.parametrize("make", [siglip, dino])
def test_equal_to_timm(make):
    model = make()
    vit, file = ours(model.state_dict())
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(5))
    expected = model.forward_intermediates(
        pixels, indices=[1, 2], norm=False, output_fmt="NLC", intermediates_only=True
    )
    assert difference(vit(pixels, [1, 2]), expected) < 1e-5
    assert set(file.weights) == set(vit.state_dict())
    assert len(file.weights) + len(file.unused) == len(model.state_dict())
    assert all(key.startswith(("norm.", "attn_pool.", "fc_norm.")) for key in file.unused)


def test_equal_to_hugging_faces_siglip():
    config = transformers.SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14
    )
    model = randomized(transformers.SiglipVisionModel(config))
    vit, file = ours(model.state_dict(), tanh=True)
    pixels = torch.randn(1, 3, 56, 56)
    hidden = model(pixels, output_hidden_states=True).hidden_states
    assert difference(vit(pixels, [0, 1]), [hidden[1], hidden[2]]) < 1e-5
    assert all("head." in key or "post_layernorm" in key for key in file.unused)


# As the released files have them, which is how transformers 4 called them.
OLDER = {
    ".attention.q_proj.": ".attention.attention.query.", ".attention.k_proj.": ".attention.attention.key.",
    ".attention.v_proj.": ".attention.attention.value.", ".attention.o_proj.": ".attention.output.dense.",
}  # fmt: skip


def as_released(state):
    for new, old in OLDER.items():
        state = {key.replace(new, old): tensor for key, tensor in state.items()}
    return state


@pytest.mark.parametrize("layout", [dict, as_released])
def test_equal_to_hugging_faces_dinov2_with_registers(layout):
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, mlp_ratio=2, image_size=98, patch_size=14
    )
    model = randomized(transformers.Dinov2WithRegistersModel(config))
    vit, file = ours(layout(model.state_dict()))
    pixels = torch.randn(1, 3, 98, 98)
    hidden = model(pixels, output_hidden_states=True).hidden_states
    assert difference(vit(pixels, [0, 1]), [hidden[1][:, 5:], hidden[2][:, 5:]]) < 1e-5
    assert all("mask_token" in key or "layernorm" in key for key in file.unused)


def test_open_clips_layout_is_timms_inside():
    state = siglip().state_dict()
    inside = {f"visual.trunk.{key}": tensor for key, tensor in state.items()} | {"text.token": torch.zeros(1)}
    _, file = ours(inside)
    assert set(file.weights) == set(ours(state)[1].weights)
    assert "text.token" in file.unused


def test_another_file_is_one_clear_error():
    with pytest.raises(ValueError, match="some.safetensors is not a SigLIP or DINOv2 vision transformer"):
        read_vision({"double_blocks.0.weight": torch.zeros(1)}, "some.safetensors")


def test_on_the_hosts_operations_with_manual_cast():
    import comfy.ops

    model = siglip()
    vit, file = ours(model.state_dict())
    half = ViT(file.config, comfy.ops.manual_cast, dtype=torch.bfloat16)
    half.load_state_dict(file.weights)
    rounded = ViT(file.config)
    rounded.load_state_dict({key: tensor.bfloat16().float() for key, tensor in file.weights.items()})
    pixels = torch.randn(1, 3, 56, 56)
    assert difference(half(pixels, [2]), rounded(pixels, [2])) < 1e-5
