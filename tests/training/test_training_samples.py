"""Pictures drawn while training: right pictures in right places, and training none the wiser."""

import numpy as np
import pytest
import torch
import training_world
from dreamo_routed.dreamo_core.training import preview as samples
from dreamo_routed.dreamo_core.training.config import ConfigError, load_config
from dreamo_routed.dreamo_core.training.engine import train
from dreamo_routed.dreamo_core.training.model import Prediction
from dreamo_routed.dreamo_core.training.resume import NAME
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SAMPLES = "[samples]\nevery = 4\ncount = 3\nsteps = 3\n"


def run(path, **kwargs):
    with torch.enable_grad():
        return train(load_config(path), say=lambda line: None, **kwargs)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    training_world.write_base(folder / "base")
    training_world.write_data(folder / "data")
    run(training_world.write_config(folder, "with", stages=training_world.STAGES + SAMPLES))
    return folder


def test_drawing_changes_no_bit_of_training(world):
    run(training_world.write_config(world, "without"))
    # Stopped and gone on in between, too.
    config = training_world.write_config(world, "stopped", stages=training_world.STAGES + SAMPLES)
    for _ in range(3):
        run(config, until=0)
    run(config)
    expected = load_file(world / "without" / NAME)
    for other in ("with", "stopped"):
        got = load_file(world / other / NAME)
        assert all(torch.equal(value, got[key]) for key, value in expected.items()) and got.keys() == expected.keys()
    for name in ("000004-samples.png", "000008-response-maps.png"):
        one, two = ((world / run / "samples" / name).read_bytes() for run in ("with", "stopped"))
        assert one == two
    assert not (world / "without" / "samples").exists()


def test_the_grid_shows_references_target_and_sample(world):
    with Image.open(world / "with" / "samples" / "000008-samples.png") as picture:
        grid = np.asarray(picture)
    # Rows of 128 + 4, the second with two references: four cells.
    assert grid.shape == (3 * 132, 4 * 132, 3)
    for row, pictures in enumerate((["0-0", "0"], ["1-0", "1-1", "1"], ["2-0", "2"])):
        for column, name in enumerate(pictures):
            with Image.open(world / "data" / f"{name}.png") as picture:
                expected = np.asarray(picture.resize((128, 128), Image.Resampling.NEAREST))
            shown = grid[row * 132 + 2 : row * 132 + 130, column * 132 + 2 : column * 132 + 130]
            assert np.abs(shown.astype(int) - expected).max() <= 1
    # The samples are pictures of their own.
    drawn = [grid[r * 132 + 2 : r * 132 + 130, c * 132 + 2 : c * 132 + 130] for r, c in ((0, 2), (1, 3), (2, 2))]
    assert all(part.std() > 3 for part in drawn) and not np.array_equal(drawn[0], drawn[2])


def test_tensorboard_has_them(world):
    board = EventAccumulator(str(world / "with" / "tensorboard"))
    board.Reload()
    assert set(board.Tags()["images"]) == {"samples", "response maps"} and "loss" in board.Tags()["scalars"]
    assert [entry.step for entry in board.Images("samples")] == [4, 8]


def test_the_sampler_finds_the_target_when_the_velocity_is_right(world):
    """With the true velocity field of one picture every way from noise leads to it, for any shift."""
    goal = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(1))
    features = {"target": goal[0], "t5_ids": torch.zeros(4), "t5": torch.zeros(4, 8), "pooled": torch.zeros(8),
                "positions": torch.zeros(0)}  # fmt: skip
    batch = samples.one_sample(features, 0, seed=3)

    def look(batch, noisy, times, guidance):
        return Prediction((noisy - goal) / times[:, None, None, None], None, None)

    for shift in (1.0, 3.0):
        latent, maps = samples.euler(look, batch, 5, shift, 3.5)
        torch.testing.assert_close(latent, goal, atol=1e-5, rtol=1e-5)
        assert maps.shape[0] == 0
    times = samples.times_from_noise(4, 3.0)
    assert times[0] == 1 and times[-1] == 0 and times[2] == pytest.approx(0.75)


def test_a_response_picture_is_hot_where_the_map_is_and_outlines_the_mask():
    picture = np.zeros((64, 64, 3), np.uint8)
    response = torch.zeros(16)
    response[5] = 2.0
    mask = torch.zeros(64, 64)
    mask[16:48, 16:48] = 1
    out = samples.response_picture(picture, response, mask)
    assert (out[20, 20] == samples.HEAT).all() and (out[40, 40] == 0).all() and (out[4, 4] == 0).all()
    white = (out == 255).all(-1)
    border = mask.bool().numpy() & ~np.pad(np.ones((30, 30), bool), 17)
    assert np.array_equal(white, border)
    assert not (samples.response_picture(picture, response, None) == 255).all(-1).any()


def test_a_block_that_is_not_probed_is_named(world):
    path = training_world.write_config(world, "wrong", stages=training_world.STAGES + "[samples]\nblock = 2\n")
    path.write_text(path.read_text().replace("rank = 4", "rank = 4\nprobed = [0, 1]"))
    with pytest.raises(ConfigError, match="samples.block.*2 blocks"):
        load_config(path)
