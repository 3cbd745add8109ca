"""How often a model call waits for the device: reading one number makes the computer wait for all work under way."""

import pytest
import torch
from dreamo_routed.dreamo_core.host.reuse import with_policy
from dreamo_routed.dreamo_core.host.routing import add_region, with_routing
from dreamo_routed.dreamo_core.reuse.policy import ReusePolicy
from dreamo_routed.dreamo_core.routing.regions import make_region
from dreamo_routed.dreamo_core.routing.settings import RoutingSettings
from support import apply_dreamo, make_chain, make_conditioning, sample, small_flux
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::unique")


class Counting(TorchDispatchMode):
    """Counts operations whose result the computer has to wait for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.name().startswith(WAITING)
        return func(*args, **(kwargs or {}))


def waits_per_step(model, positive):
    counts = []
    for steps in (4, 8):
        with Counting() as counting:
            sample(model, positive, steps=steps)
        counts.append(counting.count)
    return (counts[1] - counts[0]) / 4


def region(positive):
    mask = torch.zeros(1, 8, 12)
    mask[..., :6] = 1
    return add_region(positive, make_region(1, mask, 0, False, False))


@pytest.mark.parametrize(
    "ours, chain, at_most",
    [
        (lambda model, positive: (model, positive), {}, 0),
        (lambda model, positive: (model, positive), {"strength": 0.5}, 0),
        (lambda model, positive: (model, positive), {"end_percent": 0.99}, 1),
        (lambda model, positive: (model, region(positive)), {}, 1),
        (lambda model, positive: (with_routing(model, RoutingSettings()), positive), {}, 1),
        (lambda model, positive: (with_policy(model, ReusePolicy(refresh="never")), positive), {}, 1),
        (
            lambda model, positive: (
                with_routing(with_policy(model, ReusePolicy(refresh="sigma distance", prune=True)), RoutingSettings()),
                positive,
            ),
            {"end_percent": 0.99},
            1,
        ),
    ],
    ids=["apply", "strength", "range", "region", "routing", "speed", "all"],
)
def test_at_most_one_wait_a_model_call(ours, chain, at_most):
    """The noise level is one number on the device; it is read once, and only where something depends on it."""
    flux = small_flux(depth=1, depth_single_blocks=1)
    plain = waits_per_step(flux, make_conditioning())
    model, positive = ours(*apply_dreamo(flux, make_conditioning(), make_chain(2, **chain)))
    assert waits_per_step(model, positive) - plain == at_most
