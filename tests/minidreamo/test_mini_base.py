"""The training of the mini world's base: it goes on where it stopped, or begins from what is there."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from dreamo_routed.minidreamo.host import mini_world
from safetensors import safe_open
from training_world import COMFY

from dreamo_core.training import flow
from dreamo_core.training.encoders import load_t5
from minidreamo import art, scenes, train_base

NAMES = [f"thing {letter}" for letter in "abcdefgh"]


@pytest.fixture(scope="module")
def world():
    cutouts = np.random.default_rng(0).integers(0, 255, (len(NAMES), 5, art.SIZE, art.SIZE, 4), dtype=np.uint8)
    return art.Art(NAMES, cutouts, np.ones((len(NAMES), 5), bool))


@pytest.fixture
def weights(tmp_path, world, monkeypatch):
    monkeypatch.setattr(art, "load", lambda cache: world)
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("autoencoder", "t5"):
        shutil.copy(mini_world.WEIGHTS / f"{name}.safetensors", folder)
    return folder


def steps_of(weights: Path) -> int:
    with safe_open(weights / "flux.safetensors", "pt") as file:
        return int(file.metadata()["steps"])


def train(weights: Path, work: str, minutes: float, **options) -> None:
    with torch.enable_grad():
        train_base.train(weights, weights, weights.parent / work, COMFY, minutes, seed=0, size=2, **options)


def test_training_goes_on_and_leaves_t5_as_it_is(weights):
    t5 = (weights / "t5.safetensors").read_bytes()
    train(weights, "work", 0.05)
    first = steps_of(weights)
    train(weights, "work", 0.1)
    assert 0 < first < steps_of(weights)
    assert (weights / "t5.safetensors").read_bytes() == t5


def test_training_may_begin_from_weights_that_are_there(weights):
    for name in ("flux", "clip"):
        shutil.copy(mini_world.WEIGHTS / f"{name}.safetensors", weights)
    model = train_base.load(weights)
    train(weights, "none", 0.0, begin=True)
    again = train_base.load(weights)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())
    assert steps_of(weights) == 0


def test_the_shipped_base_predicts_better_than_none(weights, world):
    """Its loss on the art's own scenes cannot be had without the art; drawings of noise do for a sign."""
    data = train_base.Scenes(world, weights, COMFY, seed=1, size=8)
    clean, t5, clip = data[0]
    text = load_t5(weights / "t5.safetensors")(input_ids=t5).last_hidden_state
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    times = torch.linspace(0.3, 0.9, 8)
    losses = []
    for model in (train_base.load(mini_world.WEIGHTS), train_base.build(0)):
        out = train_base.predict(model, flow.interpolate(clean, noise, times), times, text, clip)
        losses.append(float((out - flow.velocity(clean, noise)).square().mean()))
    assert losses[0] < 0.8 * losses[1]


def test_batches_are_the_same_again_and_say_styles_after_names(weights, world):
    data = train_base.Scenes(world, weights, COMFY, seed=1, size=6)
    assert all(torch.equal(a, b) for a, b in zip(data[3], data[3], strict=True))
    texts = data.t5.tokenizer.batch_decode(data[3][1], skip_special_tokens=True)
    assert any(f"from {style}" in text for text in texts for style in scenes.STYLES)
