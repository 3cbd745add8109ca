"""A host model to put LoRA files on, and what they change in it."""

import comfy.lora
import comfy.model_patcher
import comfy.utils
import torch
from dreamo_routed.minidreamo.host.small_models import FLUX_CONFIG, make_flux

CONFIG = {
    **FLUX_CONFIG,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "num_heads": 24,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
}


SMALL_CONFIG = {**FLUX_CONFIG, "depth": 1, "depth_single_blocks": 1}


def host_model(config):
    """A FLUX.1 whose weights are shapes only."""
    model = make_flux(config, device="meta")
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def change(patcher, key):
    """What the host's own computation adds to a weight of zeros."""
    shape = dict(patcher.model.named_parameters())[key].shape
    return comfy.lora.calculate_weight(patcher.patches[key], torch.zeros(shape), key)


def largest(difference):
    return float(torch.linalg.vector_norm(difference, ord=float("inf")))


TOLERANCE = 1e-6
"""For changes of about 0.1 in float32."""


def assert_changes(patcher, sample, strength=1.0):
    assert set(patcher.patches) == set(sample.expected)
    for key, changes in sample.deltas():
        rest = change(patcher, key)
        for row, delta in changes:
            assert largest(delta) > 0.02
            rest[row : row + len(delta)].sub_(delta, alpha=strength)
        # What is left holds the differences, and the rows that the file does not touch.
        assert largest(rest) < TOLERANCE, key
