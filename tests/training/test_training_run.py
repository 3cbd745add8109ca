"""Whole runs in a tiny world: the written file loads, stopping and killing change nothing, processes count as one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
import training_world
from dreamo_routed.dreamo_core.checkpoint import load_dreamo_model
from dreamo_routed.dreamo_core.sequence import embeddings as tables
from dreamo_routed.dreamo_core.sequence.positions import grid_ids
from dreamo_routed.dreamo_core.training import flow
from dreamo_routed.dreamo_core.training.config import ConfigError, load_config
from dreamo_routed.dreamo_core.training.engine import build_model, train
from dreamo_routed.dreamo_core.training.export import load_released, lora_layers
from dreamo_routed.dreamo_core.training.model import load_transformer
from dreamo_routed.dreamo_core.training.resume import NAME, trained
from peft import PeftModel
from safetensors.torch import load_file
from support import REPO


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    training_world.write_base(folder / "base")
    training_world.write_data(folder / "data")
    return folder


def run(path, **kwargs):
    with torch.enable_grad():
        return train(load_config(path), say=lambda line: None, **kwargs)


def curve(folder):
    """The losses by step; a step that was done again after a kill counts once."""
    return {entry["step"]: entry for entry in map(json.loads, (folder / "log.jsonl").read_text().splitlines())}


@pytest.fixture(scope="module")
def straight(world):
    """A run without interruption."""
    run(training_world.write_config(world, "straight"))
    return world / "straight"


def same_files(one, other, name):
    a, b = load_file(one / name), load_file(other / name)
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def test_losses_are_logged_and_everything_learns(world, straight):
    entries = list(curve(straight).values())
    assert [e["stage"] for e in entries] == ["warm-up"] * 4 + ["all"] * 6
    assert all(e["flow"] > 0 and e["routing"] >= 0 for e in entries) and any(e["placeholder"] > 0 for e in entries)
    assert entries[-1]["learning_rate"] == pytest.approx(1e-3 / 3)
    start = trained(build_model(load_config(training_world.write_config(world, "fresh")), 16))
    end = {k.removeprefix("model."): v for k, v in load_file(straight / NAME).items() if k.startswith("model.")}
    assert start.keys() == end.keys()
    still = {name for name in start if torch.equal(start[name], end[name])}
    assert not still, still


def test_the_loss_goes_down(world):
    stages = training_world.STAGES.replace("steps = 4", "steps = 60").split("[[stages]]")[1]
    run(training_world.write_config(world, "longer", stages="[[stages]]" + stages))
    entries = list(curve(world / "longer").values())
    first, last = (sum(e["routing"] for e in part) / 15 for part in (entries[:15], entries[-15:]))
    assert last < 0.8 * first


def test_the_file_has_the_released_layout_and_loads_back(world, straight):
    written = load_file(straight / "dreamo.safetensors")
    loras = [f"double_blocks_0_processor_{p}_lora{n}" for p in ("qkv", "proj") for n in (1, 2)]
    loras += [f"single_blocks_{n}_processor_{p}_lora" for n in range(2) for p in ("qkv", "proj")]
    expected = {f"lora_unet_{lora}.{half}.weight" for lora in loras for half in ("down", "up")}
    assert set(written) == expected | {tables.TASK_KEY, tables.INDEX_KEY, tables.PLACEHOLDER_KEY}
    assert written["lora_unet_single_blocks_1_processor_qkv_lora.up.weight"].shape == (96, 4)
    read = load_dreamo_model(straight / "dreamo.safetensors")
    assert not read.unused and read.embeddings.placeholders.shape == (10, 16)
    model = build_model(load_config(training_world.write_config(world, "straight")), 16)
    load_released(model, straight / "dreamo.safetensors")
    for slot, layer in lora_layers(model).items():
        assert torch.equal(layer.up, read.lora.layers[slot].up) and torch.equal(layer.down, read.lora.layers[slot].down)


def test_the_peft_folder_changes_diffusers_as_training_did(world, straight):
    """peft itself puts the folder on an unfused transformer; the prediction is the trained one's."""
    config = load_config(training_world.write_config(world, "straight"))
    model = build_model(config, 16)
    load_released(model, straight / "dreamo.safetensors")
    generator = torch.Generator().manual_seed(0)
    latent, text, pooled = (torch.randn(s, generator=generator) for s in ((1, 16, 4, 4), (1, 24, 16), (1, 16)))
    ours = model(latent, torch.tensor([0.5]), text, pooled, torch.tensor([1.0])).velocity
    adapted = PeftModel.from_pretrained(load_transformer(config.base.transformer), straight / "peft")
    theirs = adapted(
        hidden_states=flow.pack(latent), encoder_hidden_states=text, pooled_projections=pooled,
        timestep=torch.tensor([0.5]), guidance=torch.tensor([1.0]), img_ids=grid_ids((2, 2)),
        txt_ids=torch.zeros(24, 3),
    ).sample  # fmt: skip
    torch.testing.assert_close(flow.unpack(theirs, 4, 4), ours, atol=1e-5, rtol=1e-4)


def test_stopping_and_going_on_is_bit_exact(world, straight):
    config = training_world.write_config(world, "resumed")
    # Stops after every single step, across the border of the stages too.
    for _ in range(30):
        run(config, until=0)
        if len(curve(world / "resumed")) == 10:
            break
    run(config)
    same_files(straight, world / "resumed", NAME)
    same_files(straight, world / "resumed", "dreamo.safetensors")
    assert {s: e["loss"] for s, e in curve(straight).items()} == {
        s: e["loss"] for s, e in curve(world / "resumed").items()
    }


def command(config, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "dreamo_core.training", str(config)], cwd=REPO, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, env={**os.environ, "ACCELERATE_USE_CPU": "true", **environment},
    )  # fmt: skip


def test_a_killed_run_goes_on(world, straight):
    config = training_world.write_config(world, "killed")
    for _ in range(2):
        process = command(config)
        checkpoint, before = world / "killed" / NAME, None
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
        while process.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    run(config)
    same_files(straight, world / "killed", NAME)


def test_two_processes_are_one(world, straight):
    stages = training_world.STAGES + "[samples]\nevery = 5\ncount = 1\nsteps = 1\n"
    config = training_world.write_config(world, "double", stages=stages)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [command(config, RANK=str(n), LOCAL_RANK=str(n), **common) for n in range(2)]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(list((world / "double" / "samples").glob("*.png"))) == 4
    one, two = curve(straight), curve(world / "double")
    assert one.keys() == two.keys()
    for step in one:
        for name in ("loss", "flow", "routing", "placeholder"):
            assert two[step][name] == pytest.approx(one[step][name], rel=1e-4, abs=1e-6), (step, name)
    a, b = load_file(straight / "dreamo.safetensors"), load_file(world / "double" / "dreamo.safetensors")
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=2e-4, rtol=1e-3)


def test_features_are_made_once_and_again_when_data_change(tmp_path):
    training_world.write_base(tmp_path / "base")
    manifest = training_world.write_data(tmp_path / "data")
    config = training_world.write_config(tmp_path, "run")
    run(config)
    file = tmp_path / "data" / "train-features" / "features-000000.safetensors"
    made = file.stat().st_mtime_ns
    run(config)
    assert file.stat().st_mtime_ns == made
    training_world.save_picture(manifest.parent / "0.png", 32, 77)
    run(config)
    assert file.stat().st_mtime_ns != made


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("rank = 4", 'rank = "four"', ["model.rank", "int", "four"]),
        ("rank = 4", "rnak = 4", ["model.rnak", "unknown", "rank"]),
        ("steps = 4", "steps = 0", ["stages[0].steps", "at least 1"]),
        ("reference_token_drop = 0.5", "reference_token_drop = 1.0", ["stages[1].reference_token_drop"]),
        ("text_tokens = 24", "text_tokens = 24 24", ["line"]),
        ('t5 = "base/t5.safetensors"', "", ["base.t5", "missing"]),
    ],
)
def test_a_mistake_in_the_config_is_named(world, old, new, words):
    path = training_world.write_config(world, "wrong")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert all(word in str(error.value) for word in words), error.value


def test_a_task_that_the_data_lack_is_named(world):
    stages = training_world.STAGES.replace("subject = 1 }", "identity = 1 }", 1)
    with pytest.raises(ValueError, match="'identity'.*pair, subject"):
        run(training_world.write_config(world, "lacking", stages=stages))


def test_a_checkpoint_of_another_model_is_refused(world, straight):
    config = training_world.write_config(world, "straight")
    config.write_text(config.read_text().replace("rank = 4", "rank = 8"))
    with pytest.raises(ValueError, match="another model"):
        run(config)
    training_world.write_config(world, "straight")


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    process = command(tmp_path / "none.toml")
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 1 and output.startswith("error: ") and "none.toml" in output
