"""The patch leaves no trace: not on a model without references, not after a run that failed or was cancelled."""

import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from failures import Stop, cancelling, failing, failing_block
from support import apply_dreamo, make_chain, make_conditioning, sample, small_flux


@pytest.fixture(scope="module")
def flux():
    return small_flux()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cfg", [1.0, 2.5])
def test_without_references_the_patch_changes_nothing(dtype, cfg):
    flux = small_flux(dtype=dtype)
    patched, _ = apply_dreamo(flux, make_conditioning(), make_chain(1))
    plain = sample(flux, make_conditioning(), cfg=cfg)
    assert torch.equal(sample(patched, make_conditioning(), cfg=cfg), plain)
    _, untouched = apply_dreamo(flux, make_conditioning(), ())
    assert torch.equal(sample(patched, untouched, cfg=cfg), plain)


@pytest.mark.parametrize(
    "break_it, error",
    [
        (lambda m: cancelling(m), comfy.model_management.InterruptProcessingException),
        (lambda m: failing_block(m, Stop("in a block")), Stop),
        (lambda m: failing_block(m, torch.OutOfMemoryError("on purpose")), torch.OutOfMemoryError),
        (lambda m: failing(m, WrappersMP.DIFFUSION_MODEL, Stop(), 2), Stop),
        (lambda m: failing(m, WrappersMP.APPLY_MODEL, Stop(), 1), Stop),
    ],
    ids=["cancel", "block", "out of memory", "third model call", "second apply_model"],
)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_after_a_failed_run_the_model_is_as_before(flux, break_it, error, strength):
    plain = sample(flux, make_conditioning())
    weights = {key: value.clone() for key, value in flux.model.state_dict().items()}
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2, strength=strength))
    with_references = sample(patched, positive)
    with pytest.raises(error):
        sample(break_it(patched), positive, steps=4)
    assert torch.equal(sample(flux, make_conditioning()), plain)
    assert torch.equal(sample(patched, make_conditioning()), plain)
    assert torch.equal(sample(patched, positive), with_references)
    assert all(torch.equal(value, weights[key]) for key, value in flux.model.state_dict().items())


def test_nothing_is_kept_on_model_or_options(flux):
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2, strength=0.5))
    attributes = {name: set(vars(module)) for name, module in flux.model.named_modules()}
    options = str(patched.model_options)
    sample(patched, positive)
    assert {name: set(vars(module)) for name, module in flux.model.named_modules()} == attributes
    assert str(patched.model_options) == options
