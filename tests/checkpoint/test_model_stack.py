"""The released set of files in one node: what is picked, what is missing, and what the model becomes."""

import shutil
from pathlib import Path

import comfy.lora
import folder_paths
import lora_samples
import pytest
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from dreamo_routed.minidreamo.host.small_models import small_flux
from dreamo_routed.nodes.loader import DreamOLoader
from dreamo_routed.nodes.stack import DreamOModelStack
from lora_samples import Sample, product
from safetensors.torch import save_file

# As users have them after downloading: folder and name. The turbo LoRA has several names.
WHERE = {
    "dreamo": ("dreamo", "dreamo.safetensors"),
    "cfg_distill": ("loras", "dreamo_cfg_distill.safetensors"),
    "sft": ("loras", "flux/v1.1/dreamo_sft_lora.safetensors"),
    "dpo": ("dreamo", "dreamo_dpo_lora.safetensors"),
    "quality_pos": ("loras", "dreamo_quality_lora_pos_comfyui.safetensors"),
    "quality_neg": ("dreamo", "dreamo_quality_lora_neg.safetensors"),
    "turbo": ("loras", "flux-turbo.safetensors"),
}
MAKE = {
    "dreamo": lora_samples.xlabs,
    "cfg_distill": lora_samples.xlabs,
    "sft": lora_samples.diffusers,
    "dpo": lora_samples.diffusers,
    "quality_pos": lora_samples.comfyui_converted,
    "quality_neg": lora_samples.xlabs,
    "turbo": lora_samples.diffusers,
}
V11 = {"dreamo": 1.0, "cfg_distill": 1.0, "sft": 1.0, "dpo": 1.25, "turbo": 1.0}
V1 = {"dreamo": 1.0, "cfg_distill": 1.0, "quality_pos": 0.15, "quality_neg": -0.8, "turbo": 1.0}


def path_of(name):
    kind, file = WHERE[name]
    return Path(folder_paths.get_folder_paths(kind)[0]) / file


@pytest.fixture
def released():
    """All files, small; gives the samples they were made from."""
    samples = {name: make(Sample(128, 4, seed=n)) for n, (name, make) in enumerate(MAKE.items())}
    for name, sample in samples.items():
        path_of(name).parent.mkdir(parents=True, exist_ok=True)
        tables = lora_samples.embeddings(128, 64) if name == "dreamo" else {}
        save_file({**sample.tensors, **tables}, path_of(name))
    folder_paths.filename_list_cache.clear()
    yield samples
    for name in WHERE:
        path_of(name).unlink(missing_ok=True)
    shutil.rmtree(Path(folder_paths.get_folder_paths("loras")[0]) / "flux")
    folder_paths.filename_list_cache.clear()


def changed(patcher):
    """Every patched weight's change."""
    weights = dict(patcher.model.named_parameters())
    return {
        key: comfy.lora.calculate_weight(patches, torch.zeros_like(weights[key]), key)
        for key, patches in patcher.patches.items()
    }


def by_hand(samples, strengths):
    weights = dict(small_flux().model.named_parameters())
    total = {}
    for name, strength in strengths.items():
        for key, changes in samples[name].expected.items():
            target = total.setdefault(key, torch.zeros_like(weights[key]))
            for row, down, up, scale in changes:
                target[row : row + len(up)] += strength * product(down, up, scale)
    return total


def assert_is(patcher, samples, strengths):
    actual, expected = changed(patcher), by_hand(samples, strengths)
    assert actual.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(actual[key], expected[key], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("preset", "turbo", "strengths"),
    [
        ("v1.1", True, V11),
        ("v1", True, V1),
        ("v1.1", False, {name: s for name, s in V11.items() if name != "turbo"}),
        ("custom", True, {**V11, **V1}),
    ],
)
def test_the_presets_have_the_released_strengths(preset, turbo, strengths, released):
    dreamo, model = DreamOModelStack.execute(small_flux(), preset, turbo).result
    assert_is(model, released, strengths)
    assert dreamo.embeddings.task.shape == (2, 128) and dreamo.embeddings.placeholders.shape == (10, 64)


def test_strengths_can_be_changed(released):
    _, model = DreamOModelStack.execute(
        small_flux(), "v1.1", True, dpo=0.5, sft=0.0, turbo=0.75, quality_neg=3.0
    ).result
    assert_is(model, released, {"dreamo": 1.0, "cfg_distill": 1.0, "dpo": 0.5, "turbo": 0.75})


def test_all_missing_files_are_named_before_anything_is_read(released):
    for name in ("dpo", "sft", "turbo"):
        path_of(name).unlink()
    # Would be an error of its own if it were opened.
    path_of("dreamo").write_bytes(b"")
    model = small_flux()
    with pytest.raises(ValueError) as error:
        DreamOModelStack.execute(model, "v1.1", True)
    message = str(error.value)
    for part in (
        "3 files are missing", "Put into models/dreamo (or models/loras)",
        "dreamo_sft_lora.safetensors  (https://huggingface.co/ByteDance/DreamO, v1.1/dreamo_sft_lora.safetensors)",
        "dreamo_dpo_lora.safetensors", "FLUX.1-Turbo-Alpha.safetensors", "set a strength to 0", "download",
    ):  # fmt: skip
        assert part in message
    assert "quality" not in message and "cfg_distill" not in message
    assert not model.patches


def test_a_file_at_strength_0_is_not_needed(released):
    path_of("dpo").unlink()
    _, model = DreamOModelStack.execute(small_flux(), "v1.1", False, dpo=0.0).result
    assert_is(model, released, {"dreamo": 1.0, "cfg_distill": 1.0, "sft": 1.0})


def test_the_main_file_converted_for_comfyui_takes_its_tables_from_the_file_of_tables(released):
    folder = path_of("dreamo").parent
    path_of("dreamo").rename(path_of("turbo"))
    converted = lora_samples.comfyui_converted(Sample(128, 4, seed=30))
    save_file(converted.tensors, folder / "dreamo_comfyui.safetensors")
    save_file(lora_samples.embeddings(128, 64), folder / "embedding.safetensors")
    try:
        dreamo, model = DreamOModelStack.execute(small_flux(), "v1.1", False).result
    finally:
        (folder / "dreamo_comfyui.safetensors").unlink()
        (folder / "embedding.safetensors").unlink()
    assert dreamo.embeddings.task.shape == (2, 128)
    assert_is(model, {**released, "dreamo": converted}, {n: s for n, s in V11.items() if n != "turbo"})


def test_a_companion_that_does_not_fit_leaves_the_model_alone(released):
    save_file(lora_samples.diffusers(Sample(256, 4)).tensors, path_of("dpo"))
    model = small_flux()
    with pytest.raises(ValueError, match="dreamo_dpo_lora.safetensors changes"):
        DreamOModelStack.execute(model, "v1.1", True)
    assert not model.patches


def test_a_replaced_file_is_read_again(released):
    before = DreamOModelStack.fingerprint_inputs("v1.1", True), DreamOLoader.fingerprint_inputs("dreamo.safetensors")
    assert before == (
        DreamOModelStack.fingerprint_inputs("v1.1", True),
        DreamOLoader.fingerprint_inputs("dreamo.safetensors"),
    )
    save_file({**released["dreamo"].tensors, **lora_samples.embeddings(128, 32)}, path_of("dreamo"))
    after = DreamOModelStack.fingerprint_inputs("v1.1", True), DreamOLoader.fingerprint_inputs("dreamo.safetensors")
    assert before[0] != after[0] and before[1] != after[1]


def test_the_loader_takes_lora_and_tables_of_the_one_file(released):
    dreamo, model = DreamOLoader.execute("dreamo.safetensors", 0.5, small_flux()).result
    assert_is(model, released, {"dreamo": 0.5})
    assert dreamo.embeddings.placeholders.shape == (10, 64)


def test_without_a_model_the_loader_gives_the_tables_and_blocks_whoever_wants_a_model(released):
    dreamo, model = DreamOLoader.execute("dreamo.safetensors").result
    assert dreamo.embeddings.index.shape == (10, 128)
    assert isinstance(model, ExecutionBlocker) and "model input is not connected" in model.message
