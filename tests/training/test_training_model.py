"""The model that is trained computes what the host computes with the written file."""

import pytest
import torch
from diffusers import FluxTransformer2DModel
from dreamo_routed.dreamo_core.attention.response import response_maps
from dreamo_routed.dreamo_core.flux import released_names
from dreamo_routed.dreamo_core.sequence.positions import grid_ids
from dreamo_routed.dreamo_core.training import flow, losses, weight_map
from dreamo_routed.dreamo_core.training.model import DreamOTransformer, Processor, config_from_host
from dreamo_routed.minidreamo.host import small_models

AXES = tuple(small_models.FLUX_CONFIG["axes_dim"])


@pytest.fixture(scope="module")
def host():
    """The host's small Flux with random weights."""
    return small_models.small_flux(seed=3).model.diffusion_model


def transformer(host):
    state = {key: value.clone() for key, value in host.state_dict().items()}
    model = FluxTransformer2DModel(**config_from_host(state, 4, AXES))
    model.load_state_dict(weight_map.to_diffusers(state))
    return model.eval()


def inputs(seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "noisy": random(batch, 16, 8, 12),
        "times": torch.rand(batch, generator=generator),
        "text": random(batch, 7, 64),
        "pooled": random(batch, 64),
        "guidance": 1 + torch.rand(batch, generator=generator),
        "references": (random(batch, 16, 4, 6), random(batch, 16, 6, 4)),
    }


def host_forward(host, x, patch=None):
    options = {"patches": {"post_input": [patch]}} if patch else {}
    return host(
        x["noisy"], x["times"], x["text"], x["pooled"], guidance=x["guidance"],
        ref_latents=list(x["references"]) or None, ref_latents_method="uxo", transformer_options=options,
    )  # fmt: skip


def close(a, b, tolerance=2e-5):
    torch.testing.assert_close(a, b, atol=tolerance * float(b.abs().max()), rtol=0)


def test_the_weight_map_is_one_to_one(host):
    state = released_names(host.state_dict())
    back = weight_map.to_host(weight_map.to_diffusers(state))
    assert set(back) == set(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_the_weight_map_gives_equal_outputs(host):
    x = inputs() | {"references": ()}
    plain = transformer(host)
    out = plain(
        hidden_states=flow.pack(x["noisy"]), encoder_hidden_states=x["text"], pooled_projections=x["pooled"],
        timestep=x["times"], guidance=x["guidance"], img_ids=grid_ids((4, 6)), txt_ids=torch.zeros(7, 3),
    ).sample  # fmt: skip
    close(flow.unpack(out, 8, 12), host_forward(host, x))


def test_a_key_without_a_place_is_named(host):
    with pytest.raises(ValueError, match="double_blocks.0.extra"):
        weight_map.to_diffusers(host.state_dict() | {"double_blocks.0.extra": torch.zeros(1)})
    with pytest.raises(ValueError, match="stranger"):
        weight_map.to_host({"stranger": torch.zeros(1)})


def test_references_and_embeddings_as_in_the_host(host):
    x = inputs()
    model = DreamOTransformer(transformer(host), rank=0, placeholder_width=64)
    torch.nn.init.normal_(model.task)
    torch.nn.init.normal_(model.index)

    def post_input(args):
        lengths = [(1, 6), (2, 6)]
        return args | {"img": args["img"] + model.embeddings.rows_for(24, lengths, args["img"])}

    close(model(**x).velocity, host_forward(host, x, post_input))


def test_dropped_tokens_are_those_of_a_shorter_sequence(host):
    """Leaving tokens out equals masking them out of attention, which removes them for everyone else."""
    x = inputs() | {"references": inputs()["references"][:1]}
    model = DreamOTransformer(transformer(host), rank=0, placeholder_width=64)
    kept = torch.tensor([1, 4])
    short = model(**x, kept=(kept,)).velocity
    mask = torch.zeros(1, 1, 1, 7 + 24 + 6)
    mask[..., [7 + 24 + n for n in range(6) if n not in kept]] = -1e9

    def masked(q, k, v):
        return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5 + mask, -1) @ v

    import dreamo_routed.dreamo_core.training.model as module

    class Masked(Processor):
        def __call__(self, attn, *args, **kwargs):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, "scaled_dot_product_attention", masked)
                return super().__call__(attn, *args, **kwargs)

    for block in [*model.transformer.transformer_blocks, *model.transformer.single_transformer_blocks]:
        block.attn.set_processor(Masked(False))
    close(short, model(**x).velocity)


def attention_inputs(model, x):
    """Queries and keys of every block, caught by a processor that keeps them."""
    caught = []

    class Spy(Processor):
        def __call__(self, attn, *args, probe=None, **kwargs):
            class Keep:
                def read(self, queries, keys):
                    caught.append((queries, keys))

            return super().__call__(attn, *args, probe=Keep(), **kwargs)

    for block in [*model.transformer.transformer_blocks, *model.transformer.single_transformer_blocks]:
        block.attn.set_processor(Spy(True))
    model(**x)
    return caught


def test_the_probe_reads_the_right_tokens(host):
    x = inputs()
    model = DreamOTransformer(transformer(host), rank=0, probed=[1, 3], placeholder_width=64)
    positions = torch.tensor([[2, 5], [-1, 4]])
    seen = model(**x, positions=positions)
    assert seen.maps.shape == (2, 2, 2, 24) and seen.mistakes.shape == (2, 2, 2)
    whole = attention_inputs(model, x)
    for layer, block in enumerate([1, 3]):
        queries, keys = whole[block]
        for n, start in enumerate([31, 37]):
            one = response_maps(queries.transpose(1, 2), keys.transpose(1, 2), (7, 31), [(start, start + 6)])
            torch.testing.assert_close(seen.maps[layer, :, n], one[:, 0])
        both = losses.placeholder_errors(
            queries[:1, 37:43], keys[:1, [2, 5]], torch.ones(1, 2, dtype=torch.bool), own=1
        )
        torch.testing.assert_close(seen.mistakes[layer, 0, 1], both[0])
    # Reference 1 of the second prompt has no placeholder.
    assert (seen.mistakes[:, 1, 0] == 0).all()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_losses_reach_the_lora_through_maps_and_checkpointing_changes_nothing(host, checkpointing):
    gradients = []
    for on in (False, checkpointing):
        torch.manual_seed(0)
        base = transformer(host)
        if on:
            base.enable_gradient_checkpointing()
        model = DreamOTransformer(base, rank=2, placeholder_width=64)
        with torch.enable_grad():
            out = model(**inputs(), positions=torch.tensor([[2, 5], [1, 4]]))
            (out.velocity.mean() + out.maps.square().mean() + out.mistakes.mean()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert any("transformer_blocks.0.attn.to_qkv.lora_B" in name for name in gradients[0])
    assert gradients[0].keys() == gradients[1].keys()
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], atol=1e-6, rtol=1e-5)


def test_the_lora_covers_what_the_released_one_covers(host):
    model = DreamOTransformer(transformer(host), rank=2, placeholder_width=64)
    adapted = {name.split(".lora_A")[0] for name, _ in model.transformer.named_parameters() if "lora_A" in name}
    double = ["attn.to_qkv", "attn.to_added_qkv", "attn.to_out.0", "attn.to_add_out"]
    assert adapted == {f"transformer_blocks.{n}.{x}" for n in range(2) for x in double} | {
        f"single_transformer_blocks.{n}.{x}" for n in range(4) for x in ("attn.to_qkv", "proj_out")
    }
