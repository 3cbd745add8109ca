"""What only a CUDA device shows: side streams and pinned memory, fp8 on the device, waits for the device, memory.

    ./test.sh -m gpu

The host is then booted on the device; without `-m gpu`, or without CUDA, these are skipped and say so.
"""

import warnings

import comfy.model_management
import pytest
import torch
from dreamo_routed.dreamo_core.attention.layout import Block
from dreamo_routed.dreamo_core.host.reuse import with_policy
from dreamo_routed.dreamo_core.host.routing import with_routing
from dreamo_routed.dreamo_core.reuse.policy import ReusePolicy
from dreamo_routed.dreamo_core.reuse.store import Shelf, pack, unpack
from dreamo_routed.dreamo_core.routing.settings import RoutingSettings
from support import apply_dreamo, empty_latent, make_chain, make_conditioning, sample, small_flux

pytestmark = pytest.mark.gpu

NEVER = ReusePolicy(refresh="never")


@pytest.fixture(autouse=True)
def device():
    """The host's device, if it is CUDA."""
    device = comfy.model_management.get_torch_device()
    if device.type != "cuda":
        pytest.skip("needs a CUDA device and the host booted on it: ./test.sh -m gpu")
    return device


@pytest.fixture(scope="module")
def flux():
    return small_flux()


SETTINGS = {
    "references": lambda model: model,
    "reuse": lambda model: with_policy(model, NEVER),
    "low memory": lambda model: with_policy(model, ReusePolicy(refresh="every n steps", interval=2, low_memory=True)),
    "fp8": lambda model: with_policy(model, ReusePolicy(refresh="never", store="fp8")),
    "routing": lambda model: with_routing(model, RoutingSettings()),
    "dense": lambda model: with_routing(model, RoutingSettings(form="dense")),
    "everything": lambda model: with_routing(
        with_policy(model, ReusePolicy(prune=True, refresh="never", store="fp8", low_memory=True)), RoutingSettings()
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_runs_are_finite_repeatable_and_leave_no_memory(name, dtype, device):
    flux = small_flux(dtype=dtype)
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(3, strength=0.8))
    model = SETTINGS[name](patched)
    plain = sample(flux, make_conditioning(), steps=4)
    first = sample(model, positive, steps=4, cfg=2.0)
    held = torch.cuda.memory_allocated(device)
    for _ in range(3):
        again = sample(model, positive, steps=4, cfg=2.0)
        assert torch.isfinite(again).all()
        assert (again - first).abs().max() <= (1e-4 if dtype == torch.float32 else 5e-2)
    assert torch.cuda.memory_allocated(device) <= held + 2**20
    assert torch.equal(sample(flux, make_conditioning(), steps=4), plain)


def test_low_memory_is_the_same_bits_as_on_the_device(flux):
    """The side stream's copies are complete when they are used, at every block and step."""
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(3))
    results = [
        sample(with_policy(patched, ReusePolicy(refresh="never", low_memory=low)), positive, steps=6, latent=latent)
        for low in (False, True)
        for latent in (empty_latent(64, 64),)
    ]
    assert torch.equal(*results)


@pytest.mark.parametrize("fp8", [False, True])
def test_a_shelf_in_pinned_memory_survives_a_busy_device(device, fp8):
    """Written and read again and again while the device has work queued: what comes back is what went in."""
    shelf, blocks = Shelf(fp8, low_memory=True), [Block("single", n) for n in range(12)]
    work = torch.randn(2048, 2048, device=device)
    for turn in range(4):
        kept = {}
        for n, block in enumerate(blocks):
            # Slices of a longer sequence, as attention has them: not contiguous.
            whole = torch.randn(2, 8, 300, 64, device=device, dtype=torch.bfloat16) + n + turn
            k, v = whole[:, :, 100:200], whole[:, :, 200:]
            work = work @ work / work.norm()
            shelf.write(block, k, v)
            kept[block] = tuple(unpack(pack(t, fp8), torch.bfloat16) for t in (k, v))
            del whole, k, v
        for _ in range(2):
            for block in blocks:
                work = work @ work / work.norm()
                for back, expected in zip(shelf.read(block, torch.zeros(1, device=device, dtype=torch.bfloat16)),
                                          kept[block], strict=True):  # fmt: skip
                    assert torch.equal(back, expected)
    stored = shelf.tensors()
    assert all(tensor.is_pinned() for tensor in stored)
    shelf.close()


def test_fp8_of_the_device_is_that_of_the_cpu(device):
    tensor = torch.randn(2, 4, 50, 64, generator=torch.Generator().manual_seed(1)) * torch.logspace(-6, 6, 50)[:, None]
    ours, theirs = pack(tensor.to(device), True), pack(tensor, True)
    assert torch.equal(ours.values.cpu().view(torch.uint8), theirs.values.view(torch.uint8))
    assert torch.equal(ours.scale.cpu(), theirs.scale)


@pytest.mark.parametrize("name", ["references", "reuse", "routing", "everything"])
def test_at_most_one_wait_a_model_call(flux, name):
    """Beside the host's own: counted by CUDA itself."""

    def waits(model, positive, steps):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                sample(model, positive, steps=steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(w.message) for w in caught)

    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    model = SETTINGS[name](patched)
    for each in (flux, model):
        sample(each, positive, steps=2)
    per_step = [
        (waits(m, c, 8) - waits(m, c, 4)) / 4 for m, c in ((flux, make_conditioning()), (model, positive))
    ]  # fmt: skip
    assert per_step[1] - per_step[0] <= (0 if name == "references" else 1)


def test_both_forms_of_the_bias_agree(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(3))
    results = [sample(with_routing(patched, RoutingSettings(form=form)), positive, steps=4)
               for form in ("low-rank", "dense")]  # fmt: skip
    assert (results[0] - results[1]).abs().max() < 1e-3
