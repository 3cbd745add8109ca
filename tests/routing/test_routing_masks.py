"""Every step from response maps to regions against a brute-force twin."""

import math

import pytest
import torch
from dreamo_routed.dreamo_core.attention.bias import NEVER
from dreamo_routed.dreamo_core.attention.layout import Block
from dreamo_routed.dreamo_core.attention.response import response_maps
from dreamo_routed.dreamo_core.routing import maps, masks
from dreamo_routed.dreamo_core.routing.settings import RoutingSettings, chosen_blocks
from hypothesis import given, settings
from hypothesis import strategies as st

B, H, D, TEXT, GRID, REFERENCES = 2, 3, 8, 5, (4, 6), [(29, 33), (33, 40)]
IMAGE = (TEXT, TEXT + GRID[0] * GRID[1])


@pytest.fixture
def qk():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(B, H, 40, D, generator=generator) for _ in range(2)]


def test_response_maps_are_equation_2(qk):
    q, k = qk
    ours = response_maps(q, k, IMAGE, REFERENCES)
    for b in range(B):
        for i, (start, end) in enumerate(REFERENCES):
            for n in range(*IMAGE):
                logits = [
                    sum(float(q[b, h, t, c]) * float(k[b, h, n, c]) for c in range(D)) / math.sqrt(D)
                    for h in range(H)
                    for t in range(start, end)
                ]
                assert ours[b, i, n - TEXT] == pytest.approx(sum(logits) / len(logits), abs=1e-5)


def test_word_maps_are_logits_over_the_texts_mean(qk):
    q, k = qk
    words = [[1], [0, 3]]
    ours = maps.word_maps(q, k, IMAGE, (0, TEXT), words)
    logits = torch.einsum("bhqc,bhkc->bqk", q[:, :, IMAGE[0] : IMAGE[1]], k[:, :, :TEXT]) / H / math.sqrt(D)
    for i, at in enumerate(words):
        theirs = torch.stack([logits[..., t] for t in at]).mean(0) - logits.mean(-1)
        assert (ours[:, i] - theirs).abs().max() < 1e-5
    # What somebody has put in front of the prompt does not count.
    k = torch.cat((torch.randn(k.shape[0], H, 3, D) * 100, k), 2)
    moved = maps.word_maps(torch.cat((q[:, :, :3], q), 2), k, tuple(n + 3 for n in IMAGE), (3, TEXT + 3), [[4], [3, 6]])
    assert (moved - ours).abs().max() < 1e-5


@pytest.mark.parametrize("grid", [(4, 6), (18, 5)])
def test_smoothing_is_self_attention_on_patches(grid):
    """Eq. 14 in full where patches are tokens; on a larger grid, the same with averaged keys and map."""
    n = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(2)
    q, k = (torch.randn(1, H, TEXT + n, D, generator=generator) for _ in range(2))
    m = torch.rand(1, 2, n, generator=generator)
    ours = masks.smooth(m, maps.similarity(q, k, (TEXT, TEXT + n), grid), grid, 0.7)
    cells = (min(grid[0], 16), min(grid[1], 16))
    rows, columns = (
        [(math.floor(i * g / c), math.ceil((i + 1) * g / c)) for i in range(c)]
        for g, c in zip(grid, cells, strict=True)
    )
    keys, queries = k[0, :, TEXT:], q[0, :, TEXT:]
    patches = [[y * grid[1] + x for y in range(*r) for x in range(*c)] for r in rows for c in columns]
    theirs = torch.zeros_like(m)
    averaged = [keys[:, p].mean(1) for p in patches]
    for t in range(n):
        logits = torch.stack([sum(queries[h, t] @ key[h] for h in range(H)) for key in averaged])
        weights = (logits / math.sqrt(H * D)).softmax(0)
        for i in range(2):
            spread = sum(w * m[0, i, p].mean() for w, p in zip(weights, patches, strict=True))
            theirs[0, i, t] = 0.3 * m[0, i, t] + 0.7 * spread
    assert (ours - theirs).abs().max() < 1e-5


def brute_regions(m, gamma, threshold, soft, allowed):
    """One sample, references by tokens as lists: min-max, top-γ, max norm, threshold, assignment, limit."""
    result = []
    for row, may in zip(m, allowed, strict=True):
        inside = [v for v, a in zip(row, may, strict=True) if a > 0]
        low, high = (min(inside), max(inside)) if inside else (0, 0)
        row = [(v - low) / (high - low) if a > 0 and high > low else 0.0 for v, a in zip(row, may, strict=True)]
        count = max(1, math.ceil(round(len(inside) * gamma, 3)))
        limit = sorted(row, reverse=True)[count - 1]
        row = [v if v >= limit and v > 0 else 0.0 for v in row]
        row = [v / max(row) if max(row) > 0 else 0.0 for v in row]
        result.append([v if v >= threshold else 0.0 for v in row])
    for n in range(len(result[0])):
        column = [row[n] for row in result]
        winner = column.index(max(column))
        for i, row in enumerate(result):
            row[n] = row[n] if i == winner else 0.0
            row[n] = row[n] if soft or row[n] == 0 else 1.0
            row[n] = min(row[n], allowed[i][n])
    return result


values = st.sampled_from([-3.0, -0.5, 0.0, 0.25, 0.5, 1.0, 1.5, 4.0])


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda r: st.tuples(
            st.lists(st.lists(values, min_size=7, max_size=7), min_size=r, max_size=r),
            st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=7, max_size=7), min_size=r, max_size=r),
        )
    ),
    st.sampled_from([0.01, 0.2, 0.5, 1.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.booleans(),
)
def test_regions_equal_brute_force(both, gamma, threshold, soft):
    m, allowed = both
    ours = masks.regions_from_maps(torch.tensor([m]), gamma, threshold, soft, torch.tensor([allowed]))
    assert torch.allclose(ours[0], torch.tensor(brute_regions(m, gamma, threshold, soft, allowed)), atol=1e-6)
    assert (ours > 0).sum(1).max() <= 1
    everywhere = [[1.0] * 7 for _ in m]
    ours = masks.regions_from_maps(torch.tensor([m]), gamma, threshold, soft)
    assert torch.allclose(ours[0], torch.tensor(brute_regions(m, gamma, threshold, soft, everywhere)), atol=1e-6)


def test_top_gamma_keeps_its_part():
    m = torch.rand(2, 3, 400, generator=torch.Generator().manual_seed(0)) + 0.1
    assert ((masks.top_gamma(m, 0.2) > 0).sum(-1) == 80).all()


def test_blend_is_the_exponential_average():
    rows = [torch.rand(1, 4) for _ in range(4)]
    average = None
    for row in rows:
        average = masks.blend(average, row, 0.6)
    theirs = 0.6**3 * rows[0] + 0.4 * sum(0.6 ** (3 - i) * rows[i] for i in (1, 2, 3))
    assert torch.allclose(average, theirs)


def test_log_influence():
    w = torch.tensor([0.0, 1e-30, 0.5, 1.0])
    assert masks.log_influence(w, 1.0).tolist() == pytest.approx([NEVER, math.log(1e-30), math.log(0.5), 0.0])
    assert masks.log_influence(w, 0.5).tolist()[0] == NEVER
    assert masks.log_influence(w, 0.5).tolist()[2] == pytest.approx(0.5 * math.log(0.5))
    assert masks.log_influence(w, 0.0).tolist() == [0, 0, 0, 0]


def test_chosen_blocks():
    names = lambda text: [(b.kind[0], b.index) for b in chosen_blocks(text, 3, 4)]  # noqa: E731
    assert names("all") == [*(("d", i) for i in range(3)), *(("s", i) for i in range(4))]
    assert names("double 1-2, single 3") == [("d", 1), ("d", 2), ("s", 3)]
    assert chosen_blocks("Double 2 - 9", 3, 4) == (Block("double", 2),)
    with pytest.raises(ValueError, match="Routing cannot read the blocks 'triple'; write all"):
        chosen_blocks("double, triple", 3, 4)
    with pytest.raises(ValueError, match="has 3 double and 4 single"):
        chosen_blocks("double 7", 3, 4)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"strength": 3.0}, "strength must be from 0 to 2, got 3"),
        ({"gamma": 0.0}, "gamma is a part of the image"),
        ({"memory": 1.0}, "memory must be from 0 to below 1"),
        ({"source": "smell"}, "source must be one of references, words, both, got 'smell'"),
        ({"stop": float("nan")}, "stop must be from 0 to 1, got nan"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        RoutingSettings(**wrong)
