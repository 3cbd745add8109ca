"""Keys and values as constants of the pictures: the rule by hand, and the store across runs, restarts and damage."""

import logging
from dataclasses import replace

import comfy.ldm.flux.layers
import comfy.model_management
import pytest
import torch
from comfy.ldm.flux.math import apply_rope
from dreamo_routed.dreamo_core.host.conditioning import control_reference
from dreamo_routed.dreamo_core.host.reuse import with_policy
from dreamo_routed.dreamo_core.host.routing import with_routing
from dreamo_routed.dreamo_core.reuse.constant import ConstantStore
from dreamo_routed.dreamo_core.reuse.policy import PRESETS, ReusePolicy
from dreamo_routed.dreamo_core.routing.settings import RoutingSettings
from failures import cancelling
from support import apply_dreamo, make_chain, make_conditioning, record, sample, small_flux
from worlds import WORLDS, World, host_has

GIB = 2**30


@pytest.fixture(params=WORLDS, ids=str)
def world(request):
    return request.param


def constant(model, kept=None, **changes):
    return record(with_policy(model, ReusePolicy(refresh="constant", **changes), kept))


def ran(calls):
    """Number of references in each call of the model."""
    return [len(call.ref_latents or ()) for call in calls]


def plain_attention(q, k, v):
    weights = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def by_hand(world, call, latents):
    """A call by the rule, the host alone: a pass at t = 0 in which references see references, and then their keys."""
    network, kept = world.model().model.diffusion_model, []
    tokens = sum(latent.shape[-2] * latent.shape[-1] for latent in latents) // world.patch**2

    def alone(q, k, v, pe, **_):
        q, k = apply_rope(q, k, pe)
        kept.append((k[:, :, -tokens:], v[:, :, -tokens:]))
        return torch.cat(
            (plain_attention(q, k, v)[:, :-tokens], plain_attention(*(t[:, :, -tokens:] for t in (q, k, v)))), 1
        )

    def appending(q, k, v, pe, **_):
        q, k = apply_rope(q, k, pe)
        old_k, old_v = kept.pop(0)
        return plain_attention(q, torch.cat((k, old_k), 2), torch.cat((v, old_v), 2))

    method = (world.method or "index").split("/")[0]
    method = "index" if method == "index_timestep_zero" else method
    for attention, references in ((alone, latents), (appending, None)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(comfy.ldm.flux.layers, "attention", attention)
            first = references is not None
            out = network(
                call.x, call.timestep * 0 if first else call.timestep, call.context, None if first else call.y,
                call.guidance, references, transformer_options={}, **({"ref_latents_method": method} if first else {}),
            )  # fmt: skip
    return out


def scaled(model, latents):
    return [model.model.process_latent_in(latent) for latent in latents]


def test_the_rule_is_what_it_says(world):
    model = world.model()
    fast, calls = constant(model)
    sample(fast, world.positive(2), latent=world.latent(), steps=2)
    # The pass of the references alone calls no wrapper of others around the diffusion model.
    assert ran(calls) == [0, 0]
    for call in calls:
        expected = by_hand(world, call, scaled(model, world.references(2)))
        assert torch.allclose(call.output, expected, atol=1e-5)


def test_a_second_run_finds_them_to_the_bit(world, caplog):
    """With another prompt, seed, size, batch and noise level, against the same rule without a store."""
    model, store = world.model(), ConstantStore(None, GIB)
    caplog.set_level(logging.INFO)
    sample(constant(model, store)[0], world.positive(2), latent=world.latent(), steps=2)
    assert "were made 1 and found 0 time(s)" in caplog.text
    other = world.positive(2, make_conditioning(5, tokens=9))
    options = {"latent": world.latent((5, 4), batch=2), "steps": 2, "seed": 9, "denoise": 0.7}
    if world.method == "uxo/uno":
        options["latent"] = world.latent(batch=2)  # on the diagonal the picture's size moves the references
    caplog.clear()
    found = sample(constant(model, store)[0], other, **options)
    assert "were made 0 and found 1 time(s)" in caplog.text
    assert torch.equal(found, sample(constant(model)[0], other, **options))


@pytest.mark.parametrize("store", ["as computed", "fp8"])
@pytest.mark.parametrize("low_memory", [False, True])
def test_found_again_after_a_restart(tmp_path, store, low_memory, caplog):
    world, settings = World("FLUX.2"), {"store": store, "low_memory": low_memory}
    model = world.model()
    caplog.set_level(logging.INFO)
    run = lambda: sample(  # noqa: E731
        constant(world.model(), ConstantStore(tmp_path, GIB), **settings)[0],
        world.positive(2), latent=world.latent(), steps=2,
    )  # fmt: skip
    first = run()
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    caplog.clear()
    assert torch.equal(run(), first) and "made 0 and found 1" in caplog.text
    # Everything else is another name: one changed value of a picture, another order, other weights, a LoRA.
    changed = world.references(2)
    changed[1][0, 0, 0, 0] += 1e-3
    for latents in (changed, world.references(2)[::-1], world.references(1)):
        caplog.clear()
        sample(constant(model, ConstantStore(tmp_path, GIB), **settings)[0], world.with_latents(latents),
               latent=world.latent(), steps=1)  # fmt: skip
        assert "made 1 and found 0" in caplog.text
    patched = model.clone()
    weight = "diffusion_model.double_blocks.0.img_attn.proj.weight"
    patched.add_patches({weight: (torch.ones(64, 64) * 0.01,)}, 0.5)
    for other in (world.model(seed=1), patched):
        caplog.clear()
        sample(constant(other, ConstantStore(tmp_path, GIB), **settings)[0], world.positive(2),
               latent=world.latent(), steps=1)  # fmt: skip
        assert "made 1 and found 0" in caplog.text


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
        lambda data: b"not a safetensors file at all",
    ],
    ids=["cut off", "empty", "a flipped bit", "another file"],
)
def test_a_damaged_file_is_ignored_and_made_anew(tmp_path, damage, caplog):
    world = World("FLUX.2")
    run = lambda: sample(  # noqa: E731
        constant(world.model(), ConstantStore(tmp_path, GIB))[0], world.positive(2), latent=world.latent(), steps=1
    )
    first = run()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert torch.equal(run(), first)
    assert "is ignored and made anew" in caplog.text
    assert path.read_bytes() == whole


def test_memory_and_folder_are_bounded(tmp_path):
    world = World("FLUX.2")
    model = world.model()
    store = ConstantStore(tmp_path, GIB)
    for n in range(3):
        latents = [world.latent((5, 5), seed=n)]
        sample(constant(model, store)[0], world.with_latents(latents), latent=world.latent(), steps=1)
        store.limit_bytes = store.limit_bytes if n else int(store.nbytes * 2.5)
    files = list(tmp_path.iterdir())
    assert len(files) == 2 and 0 < store.nbytes <= store.limit_bytes
    assert sum(path.stat().st_size for path in files) <= store.limit_bytes
    # One that is too large for both is used all the same.
    tight = ConstantStore(tmp_path / "none", 10)
    sample(constant(model, tight)[0], world.positive(1), latent=world.latent(), steps=1)
    assert tight.nbytes == 0 and not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_written_costs_a_line_in_the_log(tmp_path, caplog):
    world, blocked = World("FLUX.2"), tmp_path / "file"
    blocked.write_text("in the way")
    latent = sample(constant(world.model(), ConstantStore(blocked / "folder", GIB))[0], world.positive(1),
                    latent=world.latent(), steps=1)  # fmt: skip
    assert torch.isfinite(latent).all() and "could not be written to disk" in caplog.text


def test_each_sample_and_conditioning_has_its_own(world):
    """Positive and negative with different references of one size, in one batch of the host."""
    model = world.model()
    latents = [world.latent((4, 4), seed=n) for n in range(2)]
    texts = [make_conditioning(), make_conditioning(9)]
    positive, negative = (world.with_latents([latent], text) for latent, text in zip(latents, texts, strict=True))
    fast, calls = constant(model)
    sample(fast, positive, negative, latent=world.latent(), steps=1, cfg=2.0)
    (call,) = calls
    for row in range(2):
        which = next(n for n in range(2) if torch.equal(call.context[row, -7:], texts[n][0][0][0]))
        cut = lambda value, row=row: value[row : row + 1] if torch.is_tensor(value) else value  # noqa: E731
        alone = replace(call, **{name: cut(value) for name, value in vars(call).items()})
        assert torch.allclose(alone.output, by_hand(world, alone, scaled(model, [latents[which]])), atol=1e-5)


def test_strength_range_routing_and_cancel(world):
    model, store = world.model(), ConstantStore(None, GIB)
    fast, _ = constant(model, store)
    run = lambda model, positive, **options: sample(model, positive, latent=world.latent(), **options)  # noqa: E731
    plain = run(fast, world.positive(2))
    half = run(fast, control_reference(world.positive(2), 1, strength=0.5))
    assert not torch.allclose(plain, half)
    # Strength 0 leaves it out of the group of references that see each other, so it is made anew.
    none = run(fast, control_reference(world.positive(2), 0, strength=0.0))
    assert torch.equal(none, run(model, make_conditioning()))
    late = run(fast, control_reference(world.positive(2), 2, start_percent=0.5))
    assert torch.isfinite(late).all() and not torch.allclose(late, plain)
    routed = run(with_routing(fast, RoutingSettings()), world.positive(2))
    assert torch.isfinite(routed).all() and not torch.allclose(routed, plain)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(cancelling(fast), world.positive(2))
    assert torch.equal(run(fast, world.positive(2)), plain)
    assert torch.equal(run(model, world.positive(2)), run(with_policy(fast, PRESETS["exact"]), world.positive(2)))


def test_dreamo_references_too():
    """With index and task rows on the diagonal; they are part of the name."""
    flux, store = small_flux(depth=1, depth_single_blocks=1), ConstantStore(None, GIB)
    patched, positive = apply_dreamo(flux, make_conditioning(), make_chain(2))
    first = sample(constant(patched, store)[0], positive)
    assert torch.equal(first, sample(constant(patched)[0], positive))
    assert not torch.allclose(first, sample(patched, positive))


@pytest.mark.skipif(not host_has("index_timestep_zero"), reason="this host has no references at t = 0")
def test_for_one_block_it_is_the_hosts_own_timestep_zero():
    """In a model of one double block references have looked at nothing but by its end: the rule changes nothing."""
    world = World("FLUX.2", "index_timestep_zero")
    model = world.model(depth=1, depth_single_blocks=0)
    expected = sample(model, world.positive(2), latent=world.latent(), steps=2)
    found = sample(constant(model)[0], world.positive(2), latent=world.latent(), steps=2)
    assert torch.allclose(found, expected, atol=1e-5)
