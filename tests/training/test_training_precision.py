"""What is trained is float32 whatever the base is; loading holds the weights once; features are shared out."""

import json
import re
import subprocess
import sys
import threading

import pytest
import torch
import training_world
from accelerate.state import AcceleratorState
from dreamo_routed.dreamo_core.training import features
from dreamo_routed.dreamo_core.training.config import ConfigError, load_config
from dreamo_routed.dreamo_core.training.engine import build_model, load_encoders, train
from dreamo_routed.dreamo_core.training.features import FeatureStore
from dreamo_routed.dreamo_core.training.manifest import read_manifest
from dreamo_routed.dreamo_core.training.resume import NAME, trained
from safetensors.torch import load_file
from support import REPO

STAGE = """
[[stages]]
name = "all"
manifest = "data/train.jsonl"
steps = 12
batch = 4
learning_rate = 4e-5
mixture = { subject = 1, pair = 2 }
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    training_world.write_base(folder / "base")
    training_world.write_data(folder / "data")
    return folder


def config(world, name, dtype, *changes, extra=""):
    path = training_world.write_config(world, name, extra, STAGE)
    text = path.read_text().replace('dtype = "float32"', f'dtype = "{dtype}"' if dtype else "")
    for old, new in changes:
        text = text.replace(old, new)
    path.write_text(text)
    return path


def run(path):
    # accelerate keeps the first run's precision for the process.
    AcceleratorState._reset_state(reset_partial_state=True)
    with torch.enable_grad():
        train(load_config(path), say=lambda line: None)
    AcceleratorState._reset_state(reset_partial_state=True)
    return [json.loads(line) for line in (path.with_suffix("") / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def bf16(world):
    """With both defaults, as a config that says nothing has them."""
    return run(config(world, "bf16", ""))


def test_trained_parameters_and_their_optimizer_are_float32(world, bf16):
    stored = load_file(world / "bf16" / NAME)
    assert any(key.startswith("optimizer.") and "exp_avg_sq" in key for key in stored)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    model = build_model(load_config(world / "bf16.toml"), 16)
    assert {p.dtype for p in model.transformer.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {p.dtype for p in trained(model).values()} == {torch.float32}


def test_small_steps_do_not_round_away(world, bf16):
    """A learning rate of 4e-5 beside weights of 0.1: in bf16 seven eighths of the first factor would not move."""
    start = trained(build_model(load_config(world / "bf16.toml"), 16))
    stored = load_file(world / "bf16" / NAME)
    moved = [(stored[f"model.{k}"] != p).float().mean() for k, p in start.items() if "lora_A" in k]
    assert torch.stack(moved).min() > 0.99


def test_the_loss_curve_of_a_bf16_base_is_that_of_a_float32_one(world, bf16):
    """Within 2 % at each step; its rounding alone is a part of that."""
    for ours, theirs in zip(bf16, run(config(world, "fp32", "float32")), strict=True):
        assert ours["flow"] == pytest.approx(theirs["flow"], rel=0.02), ours["step"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02), ours["step"]


@pytest.mark.parametrize(
    "dtype, computed_in", [("", "bf16"), ("bfloat16", "bf16"), ("float32", "no"), ("float16", "fp16")]
)
def test_the_defaults_fit_each_other(world, dtype, computed_in):
    assert load_config(config(world, "default", dtype)).computed_in == computed_in


def test_a_precision_that_clashes_with_the_base_is_named(world):
    with pytest.raises(
        ConfigError, match='precision: "no" computes in float32, but base.dtype is bfloat16; write "auto"'
    ):
        load_config(config(world, "clash", "bfloat16", extra='precision = "no"'))


MEASURE = """
import sys, torch
from pathlib import Path
from dreamo_core.training.model import DreamOTransformer, load_transformer
file = Path(sys.argv[1])

def kib(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])

Path("/proc/self/clear_refs").write_text("5")
before = kib("VmRSS")
model = DreamOTransformer(load_transformer(file, torch.bfloat16, fused=True), 1, None, 16)
# A mapped file takes memory when it is read.
print(sum(float(p.sum()) for p in model.parameters()))
print("peak", (kib("VmHWM") - before) * 1024 / file.stat().st_size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
def test_loading_flux_holds_the_weights_once(tmp_path):
    """Peak resident memory over the size of the file, at most 1.1 times."""
    sizes = {"num_layers": 2, "num_single_layers": 4, "num_attention_heads": 16, "attention_head_dim": 64}
    flux = {**training_world.FLUX, **sizes, "axes_dims_rope": (16, 24, 24)}
    training_world.write_flux(tmp_path / "flux.safetensors", flux, torch.bfloat16)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "flux.safetensors")]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    peak = float(re.search(r"peak ([\d.]+)", done.stdout)[1])
    print(f"\n{(tmp_path / 'flux.safetensors').stat().st_size / 2**20:.0f} MiB, peak {peak:.2f} times that")
    assert 0.9 < peak <= 1.1


@pytest.fixture
def two_processes(world, monkeypatch):
    """Stores of two processes, as threads; what each encoded and said."""
    monkeypatch.setattr(features, "SHARD", 2)
    monkeypatch.setattr(features, "WAIT", 0.02)
    encoders = load_encoders(load_config(config(world, "features", "float32")))
    encoders = [encoders, load_encoders(load_config(config(world, "features", "float32")))]
    encoded, said, original = ([], []), ([], []), features.encode_sample
    monkeypatch.setattr(
        features, "encode_sample",
        lambda sample, used: encoded[encoders.index(used)].append(sample) or original(sample, used),
    )  # fmt: skip

    def start(folder, rank, device="cpu"):
        samples = read_manifest(world / "data" / "train.jsonl")
        return FeatureStore(samples, encoders[rank], folder, said[rank].append, device, rank, 2)

    return start, encoded, said


def test_features_are_shared_out_and_waited_for(tmp_path, two_processes):
    start, encoded, said = two_processes
    stores = {}
    first = threading.Thread(target=lambda: stores.update({0: start(tmp_path, 0)}))
    first.start()
    first.join(timeout=3)
    # The first has made its share and waits for the other, however long that takes.
    assert first.is_alive() and len(encoded[0]) == 4 and any("waiting for 2 files" in line for line in said[0])
    stores[1] = start(tmp_path, 1)
    first.join(timeout=30)
    assert not first.is_alive() and len(encoded[0]) == len(encoded[1]) == 4
    assert not set(map(id, encoded[0])) & set(map(id, encoded[1]))
    assert "features: 2 of this process's 2 files made" in said[1]
    for n in range(8):
        a, b = stores[0][n], stores[1][n]
        assert a.keys() == b.keys() and all(torch.equal(a[key].nan_to_num(), b[key].nan_to_num()) for key in a)


def test_features_go_on_where_they_stopped(tmp_path, two_processes, monkeypatch):
    start, encoded, _ = two_processes
    threads = [threading.Thread(target=start, args=(tmp_path, rank)) for rank in (0, 1)]
    [thread.start() for thread in threads]
    [thread.join(timeout=30) for thread in threads]
    (tmp_path / "features-000002.safetensors").unlink()
    encoded[0].clear(), encoded[1].clear()
    start(tmp_path, 0)
    assert len(encoded[0]) == 2 and not encoded[1]
    # They are made on the device of the process, and the encoders come back from it; where nothing is missing they
    # stay where they are.
    moved = []
    monkeypatch.setattr(features.Encoders, "to", lambda self, device: moved.append(str(device)))
    start(tmp_path, 0, "cuda:0")
    assert moved == []
    (tmp_path / "features-000000.safetensors").unlink()
    start(tmp_path, 0, "cuda:0")
    assert moved == ["cuda:0", "cpu"]
