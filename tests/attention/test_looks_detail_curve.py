"""Tokens ranked by attention, the detail of keys and curves of strength: each against a slow second computation."""

import pytest
import torch
from dreamo_routed.dreamo_core.attention.curve import CURVES, Curve, interpolated
from dreamo_routed.dreamo_core.attention.detail import Detail
from dreamo_routed.dreamo_core.attention.layout import Block, Layout
from dreamo_routed.dreamo_core.attention.looks import Looks
from dreamo_routed.dreamo_core.attention.strength import Strength

LAYOUT = Layout(3, 20, ((23, 30), (30, 41)))
DOUBLE, SINGLE = Block("double", 0), Block("single", 0)


def draw(length=41, seed=0, heads=2, dim=8):
    return torch.randn(2, heads, length, dim, generator=torch.Generator().manual_seed(seed))


def test_looks_rank_tokens_as_the_full_attention_does():
    hook, expected = Looks(), [torch.zeros(7), torch.zeros(11)]
    for n, block in enumerate((DOUBLE, SINGLE)):
        q, k = draw(seed=n), draw(seed=10 + n)
        assert hook.query_bias(block, LAYOUT, q, k) is None
        for sums, (start, end) in zip(expected, LAYOUT.references, strict=True):
            for b in range(2):
                for head in range(2):
                    for query in range(3, 23):
                        logits = torch.stack([q[b, head, query] @ k[b, head, j] / 8**0.5 for j in range(start, end)])
                        sums += logits.exp() / logits.exp().sum() / (2 * 2 * 20)
    assert hook.best(0.3, 3) is None
    for kept, sums, count in zip(hook.best(0.3, 2), expected, (2, 3), strict=True):
        assert list(kept) == sorted(sorted(range(len(sums)), key=lambda j: -sums[j])[:count])
    assert [len(kept) for kept in hook.best(1e-6, 2)] == [1, 1]


def test_detail_scales_deviations_from_the_mean():
    q, k, v = draw(), draw(seed=1), draw(seed=2)
    _, changed, same = Detail([1.0, 1.7]).keys(DOUBLE, LAYOUT, q, k, v)
    assert same is v and torch.equal(changed[:, :, :30], k[:, :, :30])
    for j in range(30, 41):
        mean = sum(k[:, :, n] for n in range(30, 41)) / 11
        assert torch.allclose(changed[:, :, j], mean + 1.7 * (k[:, :, j] - mean), atol=1e-6)
    _, flat, _ = Detail([1.0, 0.0]).keys(DOUBLE, LAYOUT, q, k, v)
    assert flat[:, :, 30:].var(2).max() < 1e-10
    assert not Detail([1.0, 1.0]).needed() and Detail([1.0, 1.1]).needed()


def test_a_polyline_is_read_as_drawn():
    points = ((0.2, 0.5), (0.4, 1.0), (0.8, 0.0))
    read = [interpolated(points, at) for at in (0.0, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)]
    assert read == pytest.approx([0.5, 0.5, 0.75, 1.0, 0.5, 0.0, 0.0])
    assert interpolated((), 0.3) == 1.0


def test_curves_multiply_strength_along_time_and_depth():
    curve = Curve(time=((0.0, 0.5), (1.0, 1.5)), depth=((0.0, 1.0), (1.0, 0.0)))
    asked = []
    hook = Strength([0.8, 1.0], None, [curve, Curve()], lambda: asked.append(1) or 0.25, (2, 3))
    # Five blocks: the first single one is in the middle of the network.
    assert hook.needed() and hook.strengths_in(SINGLE) == pytest.approx((0.8 * 0.75 * 0.5, 1.0)) and asked
    bias = hook.query_bias(SINGLE, LAYOUT, draw(), draw())
    assert bias[0, 0].exp().tolist() == pytest.approx([0.3, 1.0]) and (bias[:, 23:30, 0] == 0).all()
    still = Strength([1.0], None, [Curve(depth=curve.depth)], lambda: pytest.fail("nobody needs the time"), (2, 3))
    assert still.strengths_in(Block("single", 2)) == (0.0,)


def test_presets_do_what_their_names_say():
    early, late = 0.05, 0.95
    assert CURVES["even"] == Curve()
    assert CURVES["flexible face"].factor(early, 0.5) < CURVES["flexible face"].factor(late, 0.5) == 1.0
    assert CURVES["layout only"].factor(early, 0.5) == 1.0 and CURVES["layout only"].factor(late, 0.5) == 0.0
    style = CURVES["style only"]
    assert style.factor(early, 1.0) < 0.2 and style.factor(late, 1.0) == 1.0 and style.factor(late, 0.0) < 1.0
