"""What newer hosts do differently (`newer_host`) changes no number: demo models, mini world, trainer, references."""

import comfy.ldm.flux.model
import pytest
import torch
from dreamo_routed.dreamo_core.flux import host_names, released_names
from dreamo_routed.dreamo_core.host.routing import with_routing
from dreamo_routed.dreamo_core.routing.settings import RoutingSettings
from dreamo_routed.dreamo_core.training import weight_map
from dreamo_routed.minidreamo.host import mini_world, small_models
from newer_host import name_norms, newer_host, require_parameters
from support import apply_dreamo, make_chain, make_conditioning, sample, small_flux


def sampled(references=()):
    """What a small model draws on the host as it is now, with references routed if there are any."""
    model, positive = small_flux(), make_conditioning()
    if references:
        model, positive = apply_dreamo(model, positive, references)
        model = with_routing(model, RoutingSettings())
    return sample(model, positive)


@pytest.mark.parametrize("references", [(), make_chain(2)], ids=["plain", "routed references"])
def test_a_newer_host_draws_the_same(references, monkeypatch):
    before = sampled(references)
    newer_host(monkeypatch)
    assert any(name.endswith("query_norm.weight") for name in small_flux().model.state_dict())
    # To rounding: 0.28 and later leave these norms to torch.
    torch.testing.assert_close(sampled(references), before, atol=1e-4, rtol=1e-4)


def test_required_parameters_are_required():
    """Guards the stand-in."""
    with pytest.MonkeyPatch.context() as patch:
        require_parameters(patch)
        config = {k: v for k, v in small_models.FLUX_CONFIG.items() if k != "image_model"}
        with pytest.raises(TypeError, match="txt_ids_dims"):
            comfy.ldm.flux.model.FluxParams(**config)


@pytest.mark.parametrize("name", ["scale", "weight"])
def test_the_mini_worlds_file_loads_under_any_name_of_the_norms(name, monkeypatch):
    before = released_names(mini_world.mini_flux().model.diffusion_model.state_dict())
    published, _ = mini_world.read("flux")
    name_norms(monkeypatch, name)
    loaded = mini_world.mini_flux().model.diffusion_model.state_dict()
    assert f"double_blocks.0.img_attn.norm.query_norm.{name}" in loaded
    assert {key: value.tolist() for key, value in released_names(loaded).items() if "norm" in key} == {
        key: value.tolist() for key, value in before.items() if "norm" in key
    }
    assert set(released_names(loaded)) == set(published)


@pytest.mark.parametrize("name", ["scale", "weight"])
def test_names_there_and_back(name, monkeypatch):
    """Released names → a host's → diffusers' → released names, and no tensor is lost."""
    name_norms(monkeypatch, name)
    host = small_flux().model.diffusion_model.state_dict()
    published = released_names(host)
    assert not any(key.endswith("_norm.weight") for key in published)
    back = host_names(published, host.keys())
    assert list(back) == list(host) and all(back[key] is host[key] for key in host)
    assert host_names(host, host.keys()).keys() == host.keys()
    again = weight_map.to_host(weight_map.to_diffusers(host))
    assert set(again) == set(published) and all(torch.equal(again[key], published[key]) for key in published)


def test_a_stranger_keeps_its_name_for_the_host_to_report():
    host = small_flux().model.diffusion_model
    state = host_names(released_names(host.state_dict()) | {"stranger": torch.zeros(1)}, host.state_dict().keys())
    with pytest.raises(RuntimeError, match="stranger"):
        host.load_state_dict(state)
