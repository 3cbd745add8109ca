"""Attention that is quick to train on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def explicit_attention() -> Iterator[None]:
    """Attention as two matrix products while the block runs, as everywhere in `scaled_dot_product_attention`.

    PyTorch's fused kernel for the CPU goes backward slowly in bfloat16. For 66 tokens in a batch of 32, forward and
    backward: 30 ms fused, 16 ms as products in float32, 8 ms as products in bfloat16, on one core with AVX-512 BF16.
    """
    reduced = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(reduced)
