"""FSDP: accelerate's configs mean what they say, and two sharded processes over gloo train as one does."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import training_world
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils.launch import prepare_multi_gpu_env
from diffusers import FluxTransformer2DModel
from dreamo_routed.dreamo_core.training import parallel
from dreamo_routed.dreamo_core.training.config import load_config
from dreamo_routed.dreamo_core.training.engine import train
from dreamo_routed.dreamo_core.training.resume import NAME
from PIL import Image
from safetensors.torch import load_file
from support import REPO
from torch import nn
from transformers import T5Config, T5EncoderModel

CONFIGS = REPO / "dreamo_core" / "training" / "accelerate"
SAMPLES = "[samples]\nevery = 5\ncount = 2\nsteps = 2"


def launched(name, monkeypatch):
    """The environment that `accelerate launch --config_file` gives its processes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = launch_command_parser().parse_args(
        ["--config_file", str(CONFIGS / name), "--num_processes", "2", "-m", "dreamo_core.training"]
    )
    return prepare_multi_gpu_env(_validate_launch_command(arguments)[0])


def start(config, environment):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "dreamo_core.training", str(config)], cwd=REPO, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
            env={**os.environ, **environment, **common, "RANK": str(n), "LOCAL_RANK": str(n)},
        )
        for n in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def curve(folder):
    return {entry["step"]: entry for entry in map(json.loads, (folder / "log.jsonl").read_text().splitlines())}


def run(path, **kwargs):
    with torch.enable_grad():
        return train(load_config(path), say=lambda line: None, **kwargs)


def test_two_sharded_processes_go_on_as_one_does(tmp_path, monkeypatch):
    """One process takes the first step, two sharded ones the other nine; losses, pictures and checkpoint agree."""
    training_world.write_base(tmp_path / "base")
    training_world.write_data(tmp_path / "data")
    run(training_world.write_config(tmp_path, "straight", stages=training_world.STAGES + SAMPLES))
    config = training_world.write_config(tmp_path, "sharded", stages=training_world.STAGES + SAMPLES)
    run(config, until=0)
    assert list(curve(tmp_path / "sharded")) == [1]

    codes, outputs = start(config, launched("fsdp.yaml", monkeypatch))
    assert codes == [0, 0], outputs
    own, total = map(int, outputs[0].split("processes: ")[1].split(" parameters")[0].split(" of "))
    assert own < 0.52 * total
    one, two = curve(tmp_path / "straight"), curve(tmp_path / "sharded")
    assert list(two) == list(one) == list(range(1, 11))
    for step in one:
        for name in ("loss", "flow", "routing", "placeholder"):
            assert two[step][name] == pytest.approx(one[step][name], rel=1e-4, abs=1e-6), (step, name)
    for name in (NAME, "dreamo.safetensors"):
        a, b = load_file(tmp_path / "straight" / name), load_file(tmp_path / "sharded" / name)
        assert a.keys() == b.keys()
        for key in a:
            torch.testing.assert_close(a[key], b[key], atol=2e-4, rtol=1e-3, msg=key)
    for picture in ("000005-samples.png", "000010-response-maps.png"):
        a, b = (np.asarray(Image.open(tmp_path / n / "samples" / picture), int) for n in ("straight", "sharded"))
        assert np.abs(a - b).max() <= 2


def test_every_config_is_one_that_accelerate_takes(monkeypatch):
    for path in CONFIGS.glob("*.yaml"):
        sharded = launched(path.name, monkeypatch).get("ACCELERATE_USE_FSDP") == "true"
        assert sharded == (path.name == "fsdp.yaml")
    assert len(list(CONFIGS.glob("*.yaml"))) == 3


def with_environment(monkeypatch, environment, **changes):
    for name, value in {**environment, **changes}.items():
        monkeypatch.setenv(name, value)


def test_the_plan_splits_the_whole_of_flux(monkeypatch):
    """FLUX.1 and T5-XXL without their weights: every block is a unit, and little is left over."""
    with_environment(monkeypatch, launched("fsdp.yaml", monkeypatch))
    with torch.device("meta"):
        t5 = T5EncoderModel(
            T5Config(d_model=4096, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")
        )
        model = nn.ModuleDict({"flux": FluxTransformer2DModel(guidance_embeds=True), "t5": t5})
    names = parallel.units(model, parallel.sharding().transformer_cls_names_to_wrap)
    assert len(names) == 19 + 38 + 24
    inside = {id(p): p.numel() for name in names for p in model.get_submodule(name).parameters()}
    total = sum(p.numel() for p in model.parameters())
    assert total > 16e9 and sum(inside.values()) > 0.97 * total


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("FSDP_VERSION", "1", "fsdp_version: 2"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "gradient_checkpointing"),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", "fsdp_cpu_ram_efficient_loading"),
        ("FSDP_AUTO_WRAP_POLICY", "NO_WRAP", "fsdp_transformer_layer_cls_to_wrap"),
    ],
)
def test_a_setting_that_is_not_followed_is_named(monkeypatch, name, value, words):
    with_environment(monkeypatch, launched("fsdp.yaml", monkeypatch), **{name: value})
    with pytest.raises(ValueError, match=words):
        parallel.sharding()


def test_a_class_that_the_model_does_not_have_is_named():
    with pytest.raises(ValueError, match="SwinBlock"):
        parallel.units(nn.Linear(1, 1), ["Linear", "SwinBlock"])


def test_without_accelerate_nothing_is_sharded(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert parallel.sharding() is None


@pytest.mark.long
def test_a_bf16_base_with_a_float32_lora_is_sharded_too(tmp_path, monkeypatch):
    """One unit of FSDP then has parameters of two dtypes; the losses are those of one process, to bf16's rounding."""
    training_world.write_base(tmp_path / "base")
    training_world.write_data(tmp_path / "data")
    configs = [training_world.write_config(tmp_path, name) for name in ("single", "sharded")]
    for config in configs:
        config.write_text(config.read_text().replace('dtype = "float32"', 'dtype = "bfloat16"'))
    # accelerate keeps the first run's precision for the process.
    AcceleratorState._reset_state(reset_partial_state=True)
    run(configs[0])
    AcceleratorState._reset_state(reset_partial_state=True)
    codes, outputs = start(configs[1], launched("fsdp.yaml", monkeypatch))
    assert codes == [0, 0], outputs
    one, two = curve(tmp_path / "single"), curve(tmp_path / "sharded")
    assert list(one) == list(two) == list(range(1, 11))
    for step in one:
        assert two[step]["flow"] == pytest.approx(one[step]["flow"], rel=0.02), step
    stored = load_file(tmp_path / "sharded" / NAME)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
