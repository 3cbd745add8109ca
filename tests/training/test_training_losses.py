"""Eq. 1 to 5 against loops that follow the formulas letter by letter, and their gradients."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dreamo_routed.dreamo_core.attention.response import response_maps
from dreamo_routed.dreamo_core.sequence.positions import grid_ids
from dreamo_routed.dreamo_core.training import flow, losses
from dreamo_routed.dreamo_core.training.config import Stage
from dreamo_routed.dreamo_core.training.engine import learning_rate


def tensors(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def response_map(queries, keys):
    """Of one reference, in the layout of the loops below: (b, l, heads, d) and (b, n, heads, d) to (b, n)."""
    spans = (0, keys.shape[1]), [(0, queries.shape[1])]
    return response_maps(queries.transpose(1, 2), keys.transpose(1, 2), *spans)[:, 0]


def slow_response_map(queries, keys):
    b, length, heads, width = queries.shape
    out = torch.zeros(b, keys.shape[1], dtype=queries.dtype)
    for batch in range(b):
        for n in range(keys.shape[1]):
            for head in range(heads):
                for token in range(length):
                    pairs = zip(queries[batch, token, head], keys[batch, n, head], strict=True)
                    dot = sum(float(x) * float(y) for x, y in pairs)
                    out[batch, n] += dot / math.sqrt(width) / heads / length
    return out


def slow_placeholder_error(queries, keys, present, own):
    b, length, heads, width = queries.shape
    out = []
    for batch in range(b):
        shown = [p for p in range(keys.shape[1]) if present[batch, p]]
        if own not in shown:
            out.append(0.0)
            continue
        total = 0.0
        for token in range(length):
            logits = [
                sum(float(queries[batch, token, h] @ keys[batch, p, h]) for h in range(heads))
                / heads
                / math.sqrt(width)
                for p in shown
            ]
            highest = max(logits)
            weights = [math.exp(x - highest) for x in logits]
            for p, weight in zip(shown, weights, strict=True):
                total += (weight / sum(weights) - (p == own)) ** 2 / len(shown)
        out.append(total / length)
    return torch.tensor(out, dtype=torch.float64)


def test_flow_matching_against_loops():
    clean, noise = tensors((3, 2, 4, 4), (3, 2, 4, 4))
    times = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    mixed, target = flow.interpolate(clean, noise, times), flow.velocity(clean, noise)
    for b, t in enumerate(times.tolist()):
        for index in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(4)).tolist():
            at = (b, *index)
            assert mixed[at] == pytest.approx(float((1 - t) * clean[at] + t * noise[at]))
            # The velocity is the slope of z_t in t.
            assert target[at] == pytest.approx(float(noise[at] - clean[at]))


def test_times_have_the_logit_normal_law_and_the_shift():
    generator = torch.Generator().manual_seed(0)
    times = flow.sample_times(200_000, generator, mean=0.4, std=0.7)
    logit = torch.log(times / (1 - times))
    assert logit.mean() == pytest.approx(0.4, abs=0.01) and logit.std() == pytest.approx(0.7, abs=0.01)
    plain = flow.sample_times(1000, torch.Generator().manual_seed(1))
    shifted = flow.sample_times(1000, torch.Generator().manual_seed(1), shift=3.0)
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain))


def test_packing_is_undone_and_orders_tokens_row_by_row():
    (latent,) = tensors((2, 16, 4, 6))
    tokens = flow.pack(latent)
    assert tokens.shape == (2, 6, 64)
    assert torch.equal(tokens[:, 1], latent[:, :, 0:2, 2:4].flatten(1))
    assert torch.equal(flow.unpack(tokens, 4, 6), latent)
    assert grid_ids((2, 3), (5, 7))[4].tolist() == [0, 6, 8]


def test_response_map_against_loops():
    queries, keys = tensors((2, 3, 2, 4), (2, 5, 2, 4))
    torch.testing.assert_close(response_map(queries, keys), slow_response_map(queries, keys))


def test_routing_error_is_the_mean_square():
    maps, masks = tensors((2, 3, 5), (2, 3, 5))
    slow = torch.zeros(2, 3, dtype=torch.float64)
    for b, r, n in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(5)).tolist():
        slow[b, r] += (maps[b, r, n] - masks[b, r, n]) ** 2 / 5
    torch.testing.assert_close(losses.routing_errors(maps, masks), slow)


@pytest.mark.parametrize("own", [0, 1, 2])
def test_placeholder_error_against_loops(own):
    queries, keys = tensors((4, 3, 2, 4), (4, 3, 2, 4))
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]]).bool()
    fast = losses.placeholder_errors(queries, keys, present, own)
    torch.testing.assert_close(fast, slow_placeholder_error(queries, keys, present, own))


def test_gradients_are_those_of_finite_differences():
    with torch.enable_grad():
        queries, keys = (t.requires_grad_() for t in tensors((2, 3, 2, 4), (2, 3, 2, 4)))
        masks = torch.rand(2, 3, dtype=torch.float64)
        present = torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()
        assert torch.autograd.gradcheck(lambda q, k: losses.routing_errors(response_map(q, k), masks), (queries, keys))
        # A row without placeholders has no gradient and above all no NaN.
        assert torch.autograd.gradcheck(lambda q, k: losses.placeholder_errors(q, k, present, 0), (queries, keys))
        clean, noise = (t.requires_grad_() for t in tensors((2, 1, 2, 2), (2, 1, 2, 2)))
        assert torch.autograd.gradcheck(lambda c, n: flow.interpolate(c, n, torch.tensor([0.2, 0.9])), (clean, noise))


def test_weighted_sum():
    parts = {"flow": torch.tensor(2.0), "routing": torch.tensor(3.0)}
    assert losses.weighted_sum(parts, {"flow": 1.0, "routing": 0.5, "placeholder": 9.0}) == 3.5


def test_the_learning_rate_warms_up_stays_and_decays():
    stage = Stage("all", Path("m.jsonl"), 100, {"subject": 1.0}, learning_rate=2.0, warm_up=4, decay=0.2)
    rates = [learning_rate(stage, step) for step in (0, 1, 3, 4, 50, 80, 90, 99)]
    assert rates == pytest.approx([0.5, 1.0, 2.0, 2.0, 2.0, 2.0, 1.0, 0.1])
    assert learning_rate(replace(stage, warm_up=0, decay=0.0), 0) == learning_rate(stage, 50) == 2.0
