"""Our patch against two second implementations, through the host's own sampler. Figures with `-s`."""

import pytest
import torch
from oracles.diffusers_flux import diffusers_flux, to_diffusers
from oracles.slow import slow_flux
from support import apply_dreamo, empty_latent, make_chain, make_conditioning, make_model, record, sample, small_flux

# Scale and shift of FLUX.1 latents, written out here so that the host's own scaling is checked too.
SCALE, SHIFT = 0.3611, 0.1159


def expected(call, references, dreamo_model, implementation, model):
    batch = call.x.shape[0]
    latents = [((r.latent - SHIFT) * SCALE).to(call.x).repeat(batch, 1, 1, 1) for r in references]
    guidance = call.guidance.expand(batch)
    tables = (dreamo_model.embeddings.task, dreamo_model.embeddings.index) if references else (None, None)
    return implementation(model, call.x, call.timestep, call.context, call.y, guidance, latents, *tables)


def run(model, count, size, batch, cfg):
    references, dreamo_model = make_chain(count), make_model()
    patched, positive = apply_dreamo(model, make_conditioning(), references, dreamo_model)
    patched, calls = record(patched)
    latent = sample(patched, positive, latent=empty_latent(*size, batch), cfg=cfg, steps=2)
    assert latent.shape == (batch, 16, *size) and torch.isfinite(latent).all()
    with_references = [c for c in calls if c.ref_latents]
    without = [c for c in calls if not c.ref_latents]
    # Two steps; the negative, where there is one, runs by itself and has no references.
    assert len(with_references) == 2 and len(without) == (2 if cfg != 1 else 0)
    return references, dreamo_model, with_references, without


@pytest.fixture(scope="module")
def fp32():
    model = small_flux()
    return model, to_diffusers(model.model.diffusion_model)


@pytest.mark.parametrize("cfg", [1.0, 2.5])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(16, 24), (15, 21)])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_fp32(fp32, count, size, batch, cfg):
    model, twin = fp32
    references, dreamo_model, positive, negative = run(model, count, size, batch, cfg)
    slow = other = 0.0
    for call, chain in [(c, references) for c in positive] + [(c, ()) for c in negative]:
        ours = call.output
        slow_out = expected(call, chain, dreamo_model, slow_flux, model.model.diffusion_model)
        other_out = expected(call, chain, dreamo_model, diffusers_flux, twin)
        slow = max(slow, (ours - slow_out).abs().max().item())
        other = max(other, (ours - other_out).abs().max().item())
    print(
        f"\n{count} references, {size}, batch {batch}, cfg {cfg}: slow twin {slow:.1e}, diffusers {other:.1e}", end=""
    )
    assert slow == 0.0
    assert other <= 1e-4


@pytest.mark.parametrize("count", [1, 3, 9])
def test_bf16(count):
    model = small_flux(dtype=torch.bfloat16)
    references, dreamo_model, calls, _ = run(model, count, (15, 21), 1, 1.0)
    twin = to_diffusers(model.model.diffusion_model)
    implementations = [("slow twin", slow_flux, model.model.diffusion_model, call) for call in calls]
    # diffusers rounds the timestep itself to bf16, which moves its embedding far; the first, 1.0, is exact.
    assert calls[0].timestep == 1.0
    implementations.append(("diffusers", diffusers_flux, twin, calls[0]))
    for name, implementation, flux, call in implementations:
        ours, theirs = call.output.float(), expected(call, references, dreamo_model, implementation, flux).float()
        error = ((ours - theirs).norm() / theirs.norm()).item()
        print(f"\n{count} references, bf16: relative to {name} {error:.1e}", end="")
        assert error <= 1e-2


def test_embeddings_and_positions_matter(fp32):
    """Guards the figures above: leaving out either one is far outside the tolerance."""
    model, _ = fp32
    references, dreamo_model, calls, _ = run(model, 3, (16, 24), 1, 1.0)
    call = calls[0]
    latents = [(r.latent - SHIFT) * SCALE for r in references]
    arguments = (model.model.diffusion_model, call.x, call.timestep, call.context, call.y, call.guidance)
    tables = dreamo_model.embeddings
    assert (slow_flux(*arguments, latents) - call.output).abs().max() > 1e-2
    swapped = slow_flux(*arguments, latents[::-1], tables.task, tables.index)
    assert (swapped - call.output).abs().max() > 1e-3
