"""Regions by hand: how masks become token weights, and the rules where they meet."""

import pytest
import torch
from dreamo_routed.dreamo_core.routing.regions import (
    Painted,
    Region,
    RoutingConditioning,
    feathered,
    influence,
    make_region,
    on_grid,
    paint,
)

CPU = torch.device("cpu")


def box(height, width, top, left, bottom, right):
    mask = torch.zeros(1, height, width)
    mask[:, top:bottom, left:right] = 1
    return mask


@pytest.mark.parametrize("height, width", [(64, 96), (100, 37), (1024, 768), (3, 5), (1, 1)])
def test_a_token_gets_the_covered_part_of_its_area(height, width):
    mask = torch.rand(1, height, width, generator=torch.Generator().manual_seed(1))
    ours = on_grid(make_region(1, mask, 0, False, False), (4, 6))
    # By counting on a grid that both sizes divide.
    fine = mask.repeat_interleave(4, 1).repeat_interleave(6, 2)
    theirs = fine.unflatten(1, (4, height)).unflatten(3, (6, width)).mean((2, 4)).flatten(1)
    assert (ours - theirs).abs().max() < 1e-5
    hard = on_grid(make_region(1, mask, 0, True, False), (4, 6))
    assert torch.equal(hard, (ours >= 0.5).float())


def test_feather_softens_the_edge_and_keeps_the_middle():
    mask = box(80, 80, 0, 0, 80, 40)
    soft = feathered(mask, 10)
    assert soft[0, 40, 20] == pytest.approx(1, abs=1e-5) and soft[0, 40, 60] == pytest.approx(0, abs=1e-5)
    assert soft[0, 40, 39] + soft[0, 40, 40] == pytest.approx(1, abs=1e-4)
    # Up to the border of the picture.
    assert soft[0, 0, 0] == pytest.approx(1, abs=1e-5)
    assert (soft[0, 40].diff() <= 1e-6).all()
    assert torch.isfinite(feathered(torch.rand(1, 3, 2), 50)).all()


def test_regions_of_one_reference_add_up_and_batches_repeat():
    a = make_region(1, box(8, 8, 0, 0, 4, 4), 0, False, False)
    b = make_region(1, torch.cat([box(8, 8, 4, 4, 8, 8), torch.zeros(1, 8, 8)]), 0, False, False)
    fixed = paint([a, b], (8, 8), 3, CPU).fixed[1].unflatten(1, (8, 8))
    assert fixed.shape == (3, 8, 8)
    assert torch.equal(fixed[0], fixed[2])
    assert fixed[0].sum() == 32 and fixed[1].sum() == 16


def test_an_area_sees_its_part_of_the_mask():
    mask = torch.rand(1, 64, 96, generator=torch.Generator().manual_seed(1))
    region = make_region(1, mask, 0, False, False)
    whole = on_grid(region, (8, 12)).unflatten(1, (8, 12))
    part = on_grid(region, (4, 5), (8, 10, 4, 6), (16, 24)).unflatten(1, (4, 5))
    assert torch.allclose(part, whole[:, 2:6, 3:8], atol=1e-6)


def one(*values):
    return torch.tensor([values], dtype=torch.float32)


def w(numbers, painted, found, routed, outside=0.0):
    return influence(numbers, painted, found, routed, outside, (1, 4), CPU)[0].tolist()


def test_rules():
    nothing = Painted({}, {}, None)
    half, quarter = one(1, 1, 0, 0), one(0, 1, 0, 0)
    # Nothing known: nothing is confined.
    assert w([1, 2], nothing, {}, [True, True]) == [[1] * 4] * 2
    # What is found confines, and leaves what it is told to leave.
    assert w([1], nothing, {1: half}, [True]) == [[1, 1, 0, 0]]
    assert w([1], nothing, {1: half}, [True], outside=0.25) == [[1, 1, 0.25, 0.25]]
    # Painted confines without routing; the others are left alone if they are not routed, else they step aside.
    painted = Painted({1: half}, {}, None)
    assert w([1, 2, 3], painted, {3: one(0, 1, 1, 0)}, [False, False, True]) == [
        [1, 1, 0, 0],
        [1, 1, 1, 1],
        [0, 0, 1, 0],
    ]
    assert w([1, 2], painted, {}, [True, True]) == [[1, 1, 0, 0], [0, 0, 1, 1]]
    # Two painted ones that overlap both act.
    assert w([1, 2], Painted({1: half, 2: quarter}, {}, None), {}, [True, True]) == [[1, 1, 0, 0], [0, 1, 0, 0]]
    # Auto inside: the whole region until something is found in it.
    inside = Painted({}, {1: half}, None)
    assert w([1], inside, {}, [False]) == [[1, 1, 0, 0]]
    assert w([1], inside, {1: quarter}, [False]) == [[0, 1, 0, 0]]
    # Background comes last, whatever is left outside.
    background = Painted({1: half}, {}, one(1, 0, 0, 1))
    assert w([1, 2], background, {}, [True, False], outside=0.5) == [[0, 1, 0.5, 0], [0, 1, 1, 0]]


def test_entries_compare_by_value():
    mask = torch.rand(1, 4, 4)
    entry = lambda m, **k: RoutingConditioning((Region(1, m, **k),), ((1, 2),))  # noqa: E731
    assert entry(mask) == entry(mask.clone())
    assert entry(mask) != entry(mask, hard=True) and entry(mask) != entry(mask + 1)
    assert entry(mask) != RoutingConditioning((), ((1, 2),))
    assert entry(mask).in_area((1, 2, 3, 4)) != entry(mask)
    assert RoutingConditioning().in_area((1, 2, 3, 4)) == RoutingConditioning()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((10, torch.ones(1, 4, 4)), "numbered 1 to 9, and 0 is the background; got 10"),
        ((1, torch.ones(1, 1, 4, 4)), r"a MASK of shape \(batch, height, width\), got \(1, 1, 4, 4\)"),
        ((1, torch.zeros(1, 0, 4)), "a MASK of shape"),
        ((1, torch.full((1, 4, 4), float("nan"))), "NaN or infinite"),
    ],
)
def test_bad_regions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_region(*arguments, 0, False, False)
