"""The biased attention against dense masks and against loops."""

import math

import pytest
import torch
from dreamo_routed.dreamo_core.attention.bias import NEVER, dense_bias, key_columns, log_strength, low_rank_attention


def fused(q, k, v):
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


def looped(q, k, v, bias):
    """Softmax attention, one query at a time, in float64."""
    b, h, length, d = q.shape
    out = torch.zeros(b, length, h, d, dtype=torch.float64)
    for n in range(b):
        for head in range(h):
            for i in range(length):
                logits = (k[n, head].double() @ q[n, head, i].double()) / math.sqrt(d) + bias[n % len(bias), i].double()
                out[n, i, head] = logits.softmax(0) @ v[n, head].double()
    return out.flatten(2)


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    q, k, v = (draw(2, 3, 20, 16) for _ in range(3))
    groups = key_columns(20, [(8, 12), (12, 15), (15, 20)], k)
    return q, k, v, draw(2, 20, 3), groups


def test_key_columns_are_one_hot():
    columns = key_columns(6, [(2, 3), (3, 6)], torch.zeros(1))
    assert columns.tolist() == [[0, 0], [0, 0], [1, 0], [0, 1], [0, 1], [0, 1]]


def test_low_rank_equals_loops_and_dense(case):
    q, k, v, a, groups = case
    ours = low_rank_attention(fused, q, k, v, a, groups)
    bias = torch.stack(
        [torch.stack([sum(a[n, i, g] * groups[:, g] for g in range(3)) for i in range(20)]) for n in range(2)]
    )
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=dense_bias(a, groups))
    assert (ours - looped(q, k, v, bias)).abs().max() < 1e-5
    assert (ours - dense.transpose(1, 2).flatten(2)).abs().max() < 1e-5


def test_bf16(case):
    q, k, v, a, groups = (t.bfloat16() for t in case)
    ours = low_rank_attention(fused, q, k, v, a, groups).float()
    dense = torch.nn.functional.scaled_dot_product_attention(
        *(t.float() for t in (q, k, v)), attn_mask=dense_bias(a.float(), groups.float())
    )
    assert (ours - dense.transpose(1, 2).flatten(2)).abs().max() < 2e-2


def test_gradients_agree(case):
    with torch.enable_grad():
        inputs = [t.clone().requires_grad_() for t in case[:4]]
        low_rank_attention(fused, *inputs, case[4]).square().sum().backward()
        twins = [t.clone().requires_grad_() for t in case[:4]]
        q, k, v, a = twins
        torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=dense_bias(a, case[4])
        ).square().sum().backward()
    for ours, theirs in zip(inputs, twins, strict=True):
        assert (ours.grad - theirs.grad).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_never_is_never(case, dtype):
    q, k, v, _, groups = (t.to(dtype) for t in case)
    a = torch.zeros(1, 20, 3, dtype=dtype)
    a[..., 1] = log_strength(0.0)
    ours = low_rank_attention(fused, q, k, v, a, groups)
    kept = [i for i in range(20) if not 12 <= i < 15]
    without = fused(q, k[:, :, kept], v[:, :, kept])
    assert torch.isfinite(ours).all()
    assert (ours.float() - without.float()).abs().max() < {torch.float32: 1e-5}.get(dtype, 2e-2)


def test_log_strength():
    assert log_strength(1.0) == 0.0
    assert log_strength(0.5) == math.log(0.5)
    assert log_strength(0.0) == NEVER
