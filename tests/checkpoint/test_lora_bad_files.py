"""What is wrong with a file is said in one sentence at the node, and the model stays as it was."""

import json
import struct
from pathlib import Path

import folder_paths
import lora_samples
import pytest
import torch
from dreamo_routed.dreamo_core.checkpoint import load_lora_file
from dreamo_routed.dreamo_core.checkpoint.describe import unused_message
from dreamo_routed.dreamo_core.host.lora import with_loras
from dreamo_routed.minidreamo.host.small_models import small_flux
from dreamo_routed.nodes.loader import DreamOLoader, DreamOLora
from lora_samples import Sample
from safetensors.torch import save, save_file


def good():
    """A DreamO file for the small model."""
    return {**lora_samples.xlabs(Sample(hidden=128, rank=4)).tensors, **lora_samples.embeddings(128, 64)}


QKV = "lora_unet_double_blocks_0_processor_qkv_lora1"


def with_changed(**changes):
    tensors = good()
    for key, value in changes.items():
        tensors[f"{QKV}.{key}.weight"] = value(tensors[f"{QKV}.{key}.weight"])
    return save(tensors)


def without(key):
    tensors = good()
    del tensors[key]
    return save(tensors)


def twice_the_key():
    data = save({"a": torch.ones(2), "b": torch.zeros(2)})
    return data.replace(b'"b"', b'"a"')


def header(entries):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


def poisoned(value):
    def poison(tensor):
        tensor = tensor.clone()
        tensor[1, 2] = value
        return tensor

    return poison


def of_flux2():
    return save(lora_samples.diffusers(Sample(hidden=256, rank=4)).tensors | lora_samples.embeddings(128, 64))


def of_block(number):
    return save({key.replace("double_blocks_0", f"double_blocks_{number}"): t for key, t in good().items()})


def pickled(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "pickle.pt")
    return (tmp_path / "pickle.pt").read_bytes()


def old_pickled(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "pickle.pt", _use_new_zipfile_serialization=False)
    return (tmp_path / "pickle.pt").read_bytes()


# Kind of file: its bytes, and every part of the message.
BAD = {
    "empty": (b"", ["bad.safetensors cannot be used: it is empty", "Download it again"]),
    "pickle": (pickled, ["a PyTorch pickle", "renamed", "can run code", "not opened"]),
    "old pickle": (old_pickled, ["an old PyTorch pickle", "renamed", "not opened"]),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(64), ["a GGUF file renamed"]),
    "web page": (b"<!DOCTYPE html><html>Log in</html>", ["a web page", "error or a login page"]),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ["a Git LFS pointer"]),
    "other kind": (b"\xff" * 100, ["does not begin with a safetensors header"]),
    "truncated header": (lambda _: save(good())[:100], ["truncated", "100 bytes are there", "header alone takes"]),
    "truncated": (lambda _: save(good())[:-10], ["truncated", "bytes are there, its header describes"]),
    "too long": (lambda _: save(good()) + b"\0" * 7, ["damaged", "bytes are there, its header describes"]),
    "header no JSON": (struct.pack("<Q", 20) + b"{not json at all....", ["header is not JSON"]),
    "header no tensors": (header({"a": 3}), ["header does not describe tensors"]),
    "unknown dtype": (
        header({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4), ["damaged", "X9"],
    ),
    "hole": (
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}) + bytes(8), ["damaged"],
    ),
    "same key twice": (lambda _: twice_the_key(), ["duplicate keys: a"]),
    "same layer twice": (
        lambda _: save(
            good()
            | {f"double_blocks.0.processor.qkv_lora1.{k}.weight": good()[f"{QKV}.{k}.weight"] for k in ("down", "up")}
        ),
        ["two keys for the down of double_blocks.0.img_attn.qkv", f"{QKV}.down.weight",
         "double_blocks.0.processor.qkv_lora1.down.weight", "Save the LoRA again"],
    ),
    "up missing": (lambda _: without(f"{QKV}.up.weight"), [
        "1 LoRA keys have no partner", f"{QKV}.down.weight", "incomplete"]),
    "ranks differ": (
        lambda _: with_changed(down=lambda d: d[:3].clone()), ["rank of", "is 3 but that of", "is 4", "damaged"],
    ),
    "no matrix": (lambda _: with_changed(up=lambda u: u[:, 0].clone()), ["has shape", "expected two matrices"]),
    "NaN": (lambda _: with_changed(up=poisoned(float("nan"))), [f"{QKV}.up.weight holds NaN", "download it again"]),
    "infinite": (lambda _: with_changed(down=poisoned(float("inf"))), [f"{QKV}.down.weight holds NaN or infinite"]),
    "NaN in fp8": (
        lambda _: with_changed(up=lambda u: poisoned(float("nan"))(u.float()).to(torch.float8_e4m3fn)),
        [f"{QKV}.up.weight holds NaN"],
    ),
    "integers": (lambda _: with_changed(up=lambda u: u.to(torch.int8)), ["torch.int8", "floating point"]),
    "alpha no number": (
        lambda _: save(good() | {f"{QKV}.alpha": torch.ones(3)}), [f"{QKV}.alpha has shape (3,)", "single number"],
    ),
    "alpha NaN": (lambda _: save(good() | {f"{QKV}.alpha": torch.tensor(torch.nan)}), [f"{QKV}.alpha holds NaN"]),
    "another width": (lambda _: of_flux2(), ["256", "this model has", "made for another model", "FLUX.2", "FLUX.1"]),
    "one block too many": (
        lambda _: of_block(7),
        ["layers that this model (Flux) does not have", "double_blocks.7.img_attn.qkv", "flux1-dev"],
    ),
    "NaN in a table": (
        lambda _: save(good() | {"dreamo_task_embedding.weight": torch.full((2, 128), torch.nan)}),
        ["dreamo_task_embedding.weight holds NaN"],
    ),
    "table of another width": (
        lambda _: save(good() | {"dreamo_idx_embedding.weight": torch.ones(10, 64)}),
        ["dreamo_idx_embedding.weight has shape (10, 64), expected (10, 128)"],
    ),
    "no tables": (lambda _: save(lora_samples.xlabs(Sample(128, 4)).tensors), ["has no dreamo_task_embedding.weight"]),
    "header settings no JSON": (
        lambda _: save(good(), {"lora_adapter_metadata": "{"}), ["lora_adapter_metadata in its header is not JSON"],
    ),
}  # fmt: skip


@pytest.fixture
def bad_file():
    path = Path(folder_paths.get_folder_paths("dreamo")[0]) / "bad.safetensors"
    yield path
    path.unlink(missing_ok=True)


@pytest.mark.parametrize("kind", BAD)
def test_one_clear_error_and_the_model_untouched(kind, bad_file, tmp_path):
    data, parts = BAD[kind]
    bad_file.write_bytes(data(tmp_path) if callable(data) else data)
    before = bad_file.read_bytes()
    model = small_flux()
    weights = {name: parameter.clone() for name, parameter in model.model.named_parameters()}
    uuid = model.patches_uuid
    with pytest.raises(ValueError) as error:
        DreamOLoader.execute("bad.safetensors", 1.0, model)
    for part in parts:
        assert part in str(error.value)
    assert not model.patches and model.patches_uuid == uuid
    assert all(torch.equal(weights[name], parameter) for name, parameter in model.model.named_parameters())
    assert bad_file.read_bytes() == before


def test_a_header_whose_length_looks_like_another_kind_of_file_is_no_error(bad_file):
    data = save(good())
    length = struct.unpack("<Q", data[:8])[0]
    filler = (ord("<") - length) % 256
    data = struct.pack("<Q", length + filler) + data[8 : 8 + length] + b" " * filler + data[8 + length :]
    assert data[:1] == b"<"
    bad_file.write_bytes(data)
    assert len(load_lora_file(bad_file).lora.layers) == 6


def test_a_file_that_is_not_there():
    with pytest.raises(ValueError, match=r"There is no away\.safetensors in .*put the LoRA into one of them"):
        DreamOLora.execute(small_flux(), "away.safetensors", 1.0)


def test_a_lora_for_another_kind_of_model(bad_file):
    save_file({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": torch.ones(4, 8)}, bad_file)
    with pytest.raises(ValueError, match="has no LoRA weights for FLUX.1; it holds lora_unet_down_blocks_0"):
        DreamOLora.execute(small_flux(), "bad.safetensors", 1.0)


PEFT_BAD = {
    "no JSON": ("{", "cannot be read as JSON"),
    "no object": ("[]", "not a JSON object"),
    "another adapter": ('{"peft_type": "LOHA"}', "type LOHA; only LORA"),
    "rank of another adapter": ('{"peft_type": "LORA", "r": 99}', "has rank 4 but the PEFT settings say 99"),
    "base weights changed": (
        '{"peft_type": "LORA", "r": 4, "init_lora_weights": "pissa"}', "which changes the base weights too",
    ),
    "settings refused": ('{"peft_type": "LORA", "r": 4, "init_lora_weights": "pissa_niter_x"}', "base weights"),
    "unsupported": ('{"peft_type": "LORA", "r": 4, "layer_replication": [[0, 1]]}', "layer_replication of PEFT"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PEFT_BAD)
def test_bad_peft_settings(kind, tmp_path):
    settings, message = PEFT_BAD[kind]
    sample = lora_samples.diffusers(Sample(128, 4), "base_model.model.")
    save_file(sample.tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(settings)
    with pytest.raises(ValueError) as error:
        load_lora_file(tmp_path / "adapter_model.safetensors")
    assert message in str(error.value)


STRAY = {
    "of no known kind": "something.else",
    "text encoder, kohya": "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
    "text encoder, diffusers": "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
    "text encoder, ComfyUI": "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.lora_up.weight",
    "unknown layer, XLabs": "lora_unet_single_blocks_0_processor_qkv_lora1.down.weight",
    "unknown layer, diffusers": "transformer.transformer_blocks.0.attn.to_x.lora_A.weight",
    "unknown layer, BFL": "double_blocks.0.img_attn.qkvz.lora_A.weight",
    "unknown layer, kohya": "lora_unet_double_blocks_0_img_attn_extra.lora_down.weight",
    "unknown layer, PEFT": "base_model.model.transformer_blocks.0.attn.to_x.lora_A.weight",
    "LoKr": "lora_unet_double_blocks_0_img_attn_qkv.lokr_w1",
    "full difference": "diffusion_model.img_in.diff",
    "difference of a bias": "diffusion_model.img_in.diff_b",
    "mid of a convolution": "lora_unet_img_in.lora_mid.weight",
    "an embedding we do not know": "dreamo_other_embedding.weight",
    "a norm": "double_blocks.0.img_attn.norm.query_norm.scale",
}


@pytest.mark.parametrize("kind", STRAY)
def test_a_stray_key_is_named(kind, bad_file, caplog):
    save_file(good() | {STRAY[kind]: torch.ones(4, 128)}, bad_file)
    (model,) = DreamOLora.execute(small_flux(), "bad.safetensors", 1.0).result
    assert f"({STRAY[kind]})" in caplog.text
    assert "4 keys not used: 3 of DreamO's tables" in caplog.text
    assert len(model.patches) == 6
    caplog.clear()
    DreamOLoader.execute("bad.safetensors", 1.0, small_flux())
    assert (
        f"bad.safetensors: 1 key not used: 1 of {'text encoders' if 'text' in kind else 'no known kind'}" in caplog.text
    )
    assert f"({STRAY[kind]})" in caplog.text


@pytest.mark.parametrize(
    "key",
    ["img_in.lora_A.weight", "lora_unet_img_in.lora_up.weight", "lora_unet_img_in.alpha",
     "transformer.x_embedder.lora_magnitude_vector", "lora_unet_img_in.dora_scale", "x_embedder.lora_B.bias"],
)  # fmt: skip
def test_a_part_without_its_layer_is_an_error_that_names_it(key, bad_file):
    save_file(good() | {key: torch.ones(4, 4)}, bad_file)
    with pytest.raises(ValueError, match="no partner") as error:
        DreamOLora.execute(small_flux(), "bad.safetensors", 1.0)
    assert key in str(error.value)


def test_many_unused_keys_are_counted():
    message = unused_message("a.safetensors", [f"lora_te1_{n}" for n in range(7)] + ["x"])
    assert message == (
        "a.safetensors: 8 keys not used: 7 of text encoders (lora_te1_0, lora_te1_1, lora_te1_2, lora_te1_3, "
        "lora_te1_4 and 2 more); 1 of no known kind (x)."
    )


def test_nothing_is_patched_when_the_second_lora_does_not_fit(tmp_path):
    fits, does_not = lora_samples.xlabs(Sample(128, 4)), lora_samples.xlabs(Sample(256, 4))
    model = small_flux()
    loras = []
    for name, sample in (("one", fits), ("two", does_not)):
        save_file(sample.tensors, tmp_path / f"{name}.safetensors")
        loras.append((load_lora_file(Path(tmp_path / f"{name}.safetensors")).lora, 1.0))
    with pytest.raises(ValueError, match="two.safetensors"):
        with_loras(model, loras)
    assert not model.patches
