"""UNO's and USO's LoRA files as released, at true sizes: B · A on the right rows, and what the host makes of them."""

import comfy.lora
import comfy.lora_convert
import comfy.sd
import lora_samples
import pytest
import torch
from dreamo_routed.dreamo_core.checkpoint import load_lora_file
from dreamo_routed.dreamo_core.checkpoint.describe import unused_message
from dreamo_routed.dreamo_core.host.lora import with_loras
from lora_host import CONFIG, SMALL_CONFIG, assert_changes, change, host_model, largest
from lora_samples import Sample
from safetensors.torch import save_file

RANKS = {"UNO": 512, "USO": 128}

RELEASED = {
    "double_blocks.{n}.processor.qkv_lora1": (3, 1),
    "double_blocks.{n}.processor.qkv_lora2": (3, 1),
    "double_blocks.{n}.processor.proj_lora1": (1, 1),
    "double_blocks.{n}.processor.proj_lora2": (1, 1),
    "single_blocks.{n}.processor.qkv_lora": (3, 1),
    "single_blocks.{n}.processor.proj_lora": (1, 5),
}
"""Both files' keys without `.down.weight` and `.up.weight`; rows and columns in multiples of the hidden size."""


# UNO's rank at FLUX.1's own width would take most of a minute.
@pytest.mark.parametrize("config, rank", [(CONFIG, 32), (SMALL_CONFIG, RANKS["UNO"]), (SMALL_CONFIG, RANKS["USO"])])
def test_the_change_is_b_a_on_the_exact_rows(config, rank, tmp_path):
    """One block of each kind: the image and text stream, and the attention rows of `linear1`."""
    flux, sample = host_model(config), lora_samples.xlabs(Sample(config["hidden_size"], rank), dotted=True)
    assert {key.rsplit(".", 2)[0] for key in sample.tensors} == {name.format(n=0) for name in RELEASED}
    save_file(sample.tensors, tmp_path / "dit_lora.safetensors")
    file = load_lora_file(tmp_path / "dit_lora.safetensors")
    assert not file.unused and file.lora.ranks == [rank]
    assert_changes(with_loras(flux, [(file.lora, 1.0)]), sample)


def whole_file(hidden, rank=4):
    """Every block of FLUX.1-dev, narrow."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name, (rows, columns) in RELEASED.items():
        for n in range(19 if name.startswith("double") else 38):
            key = name.format(n=n)
            tensors[f"{key}.down.weight"] = torch.randn(rank, columns * hidden, generator=generator)
            tensors[f"{key}.up.weight"] = torch.randn(rows * hidden, rank, generator=generator)
    return tensors


@pytest.mark.parametrize("spelling", ["as released", "as the host converts it"])
def test_the_hosts_own_lora_loader_gives_the_same(spelling, tmp_path):
    """LoraLoaderModelOnly and DreamO LoRA may be exchanged, for either spelling of the keys."""
    config = {**CONFIG, "hidden_size": 64, "num_heads": 2, "axes_dim": [8, 12, 12], "depth": 19}
    flux = host_model({**config, "depth_single_blocks": 38})
    tensors = whole_file(64)
    if spelling != "as released":
        tensors = comfy.lora_convert.convert_uso_lora(tensors)
    save_file(tensors, tmp_path / "uso-flux1-dit-lora-v1.safetensors")
    file = load_lora_file(tmp_path / "uso-flux1-dit-lora-v1.safetensors")
    assert not file.unused and len(file.lora.layers) == 4 * 19 + 2 * 38
    ours = with_loras(flux, [(file.lora, 0.7)])
    theirs, _ = comfy.sd.load_lora_for_models(flux, None, dict(tensors), 0.7, 0)
    assert ours.patches.keys() == theirs.patches.keys() and len(ours.patches) == 4 * 19 + 2 * 38
    for key in ours.patches:
        expected = change(theirs, key)
        assert largest(expected) > 0.1 and torch.equal(change(ours, key), expected), key


def test_keys_of_the_projector_are_named(tmp_path):
    projector = {"feature_embedder.high_projection.weight": torch.zeros(8, 8)}
    sample = lora_samples.xlabs(Sample(hidden=64, rank=4), dotted=True)
    save_file({**sample.tensors, **projector}, tmp_path / "together.safetensors")
    file = load_lora_file(tmp_path / "together.safetensors")
    assert file.unused == tuple(projector)
    assert "feature_embedder.high_projection.weight" in unused_message(file.path.name, file.unused)
    save_file(projector, tmp_path / "projector.safetensors")
    with pytest.raises(ValueError, match="no LoRA weights for FLUX.1; it holds feature_embedder.high_projection"):
        load_lora_file(tmp_path / "projector.safetensors")
