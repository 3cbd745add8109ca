"""Pictures of routing: colours where the maps are, a legend, and every reference in the strip."""

import pytest
import torch
from dreamo_routed.dreamo_core.routing.drawing import (
    colour,
    heat,
    heat_pictures,
    map_picture,
    overlay,
    region_masks,
    step_strip,
    with_legend,
)
from dreamo_routed.dreamo_core.routing.record import RoutingMaps, RoutingStep


def make_step(n, references=(1, 2), batch=2, grid=(4, 6)):
    maps = torch.rand(len(references), batch, *grid, generator=torch.Generator().manual_seed(n))
    return RoutingStep(n / 20, references, maps, torch.ones_like(maps), (maps > 0.5).float())


@pytest.fixture
def maps():
    """Twenty steps of two references (the second comes later) and three of another conditioning with one."""
    first = tuple(make_step(n, (1,) if n < 5 else (1, 2)) for n in range(20))
    return RoutingMaps((64, 96), (first, tuple(make_step(n, (1,)) for n in range(3))))


def test_colours_are_where_the_maps_are():
    picture = torch.rand(64, 96, 3)
    planes = torch.zeros(2, 4, 6)
    planes[1, :2] = 1
    assert torch.equal(overlay(picture, planes, 0.0), picture)
    shown = overlay(picture, planes, 1.0)
    lit = colour(1) * (0.5 + 0.5 * picture[:16].mean(-1, keepdim=True))
    assert torch.allclose(shown[:16], lit, atol=1e-5)
    assert torch.allclose(shown[48:], picture[48:] * 0.25, atol=1e-5)


def test_heat_goes_from_black_over_the_colour_to_white():
    plane = torch.tensor([[0.0, 2 / 3, 1.0]])
    assert torch.allclose(heat(plane, 2, (1, 3))[0], torch.stack([torch.zeros(3), colour(2), torch.ones(3)]), atol=1e-5)


def test_one_mask_and_one_heat_map_for_each_reference_and_sample(maps):
    assert maps.labels() == ["prompt 1, reference 1", "prompt 1, reference 2", "prompt 2, reference 1"]
    masks, heats = region_masks(maps), heat_pictures(maps)
    assert masks.shape == (6, 64, 96) and heats.shape == (6, 64, 96, 3)
    # Reference by reference, each with its samples.
    last = maps.prompts[0][-1].regions
    assert masks[2].mean().item() == pytest.approx(last[1, 0].mean().item(), abs=0.05)
    assert masks[1].mean().item() == pytest.approx(last[0, 1].mean().item(), abs=0.05)


@pytest.mark.parametrize("size", [(64, 96), (1024, 256), (16, 16)])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_every_label_of_the_legend_is_there(size, count):
    legend = with_legend(torch.zeros(*size, 3), [f"reference {n + 1}" for n in range(count)])[size[0] :]
    assert legend.shape[1] == size[1]
    for n in range(count):
        assert ((legend - colour(n)).abs().amax(-1) < 0.01).any() or size[1] < 32


def test_the_strip_has_two_rows_for_each_reference_and_at_most_twelve_steps(maps):
    strip = step_strip(maps, sample=1)
    assert strip.shape[0] == 6 * (64 + 2) and 12 * 98 < strip.shape[1] < 12 * 98 + 300
    assert torch.isfinite(strip).all() and strip.min() >= 0 and strip.max() <= 1
    one = RoutingMaps((64, 96), ((make_step(0),),))
    assert step_strip(one).shape[0] == 4 * (64 + 2)
    assert map_picture(one, 0, torch.rand(64, 96, 3)).shape[1:] == (96, 3)
