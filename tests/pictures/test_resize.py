"""Resizing is the reference implementation's: OpenCV's INTER_AREA, Pillow's BOX, and its rule for the sides."""

import math

import cv2
import numpy as np
import pytest
import torch
from dreamo_routed.dreamo_core.pictures.pixels import BAND, area_resize, limited_size, on_white, reference_size
from dreamo_routed.dreamo_core.sequence.coverage import coverage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

STEP = 1 / 255


def photograph(height, width):
    """A real photograph cut and stretched to any size, uint8."""
    return cv2.resize(data.coffee(), (width, height), interpolation=cv2.INTER_CUBIC)


def ours(picture, height, width):
    return area_resize(torch.from_numpy(picture).float().div(255).unsqueeze(0), height, width)[0].numpy()


@pytest.mark.parametrize("source", [(1000, 700), (1024, 1024), (513, 511), (640, 427), (2000, 300), (700, 701)])
@pytest.mark.parametrize("resolution", [256, 512])
def test_shrinking_equals_opencv(source, resolution):
    picture = photograph(*source)
    height, width = reference_size(*source, resolution)
    opencv = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA) / 255
    assert np.abs(ours(picture, height, width) - opencv).max() <= STEP


def test_whole_factors_equal_pillow():
    """(Pillow counts whole source pixels at the edge of a box, so broken factors differ from OpenCV's there.)"""
    picture = photograph(960, 1280)
    pillow = np.asarray(Image.fromarray(picture).reduce(4)) / 255
    assert np.abs(ours(picture, 240, 320) - pillow).max() <= STEP


@pytest.mark.parametrize(
    "source", [(40, 60), (300, 200), (511, 511), (449, 570), (447, 590), (1, 1), (7, 300), (512, 505)]
)
def test_enlarging_equals_opencv(source):
    picture = photograph(*source)
    height, width = reference_size(*source, 512)
    opencv = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA) / 255
    assert np.abs(ours(picture, height, width) - opencv).max() <= STEP


@settings(deadline=None, max_examples=200)
@given(st.integers(16, 6000), st.integers(16, 6000), st.sampled_from([256, 512, 768, 1024]))
def test_sides_are_the_reference_implementations(height, width, resolution):
    k = math.sqrt(resolution * resolution / (height * width))
    theirs = tuple(int(side * k) - int(side * k) % 16 for side in (height, width))
    if min(theirs) >= 16:
        assert reference_size(height, width, resolution) == theirs
    new_height, new_width = reference_size(height, width, resolution)
    assert new_height % 16 == new_width % 16 == 0 and new_height * new_width <= resolution * resolution


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 12000), (12000, 1), (3, 9000), (12000, 12000)])
def test_extreme_shapes_keep_to_the_area(height, width):
    new_height, new_width = reference_size(height, width, 512)
    assert min(new_height, new_width) >= 16 and new_height * new_width <= 512 * 512


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 9000), st.integers(1, 9000))
def test_the_long_edge_is_the_reference_implementations(height, width):
    k = 1024 / max(height, width)
    theirs = (height, width) if k >= 1 else (max(int(height * k), 1), max(int(width * k), 1))
    assert limited_size(height, width, 1024) == theirs


def test_white_goes_in_before_the_resize():
    image, keep = torch.rand(1, 333, 222, 3), torch.rand(1, 333, 222).round()
    together = area_resize(image, 64, 48, keep=keep)
    one_after_the_other = area_resize(on_white(image, keep), 64, 48)
    assert torch.allclose(together, one_after_the_other, atol=1e-6)


def test_bands_do_not_show():
    """A picture put on white in bands, and whole, are the same."""
    image, keep = torch.rand(1, 2 * BAND + 37, 30, 3), torch.rand(1, 2 * BAND + 37, 30)
    whole = area_resize(on_white(image, keep), 100, 16)
    assert torch.allclose(area_resize(image, 100, 16, keep=keep), whole, atol=1e-6)


@pytest.mark.parametrize("grid", [(32, 26), (3, 50), (64, 64)])
@pytest.mark.parametrize("size", [(512, 416), (37, 50), (1, 1)])
def test_coverage_of_tokens_is_the_mean_over_their_area(size, grid):
    """Against the mask enlarged until tokens and pixels both are whole numbers of it."""
    mask = torch.rand(2, *size)
    fine = mask.repeat_interleave(grid[0], dim=1).repeat_interleave(grid[1], dim=2)
    slow = fine.reshape(2, grid[0], size[0], grid[1], size[1]).mean((2, 4))
    assert torch.allclose(coverage(mask, grid), slow, atol=1e-6)
