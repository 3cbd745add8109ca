"""The same forward pass through diffusers' FluxTransformer2DModel with mapped weights."""

import torch
from diffusers import FluxTransformer2DModel

from .slow import condition_vectors, slow_sequence, unpatch


def to_diffusers(flux):
    """A FluxTransformer2DModel with the weights of the host's Flux (BFL names)."""
    p = flux.params
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=p.in_channels * 4,
        num_layers=p.depth,
        num_single_layers=p.depth_single_blocks,
        attention_head_dim=p.hidden_size // p.num_heads,
        num_attention_heads=p.num_heads,
        joint_attention_dim=p.context_in_dim,
        pooled_projection_dim=p.vec_in_dim,
        guidance_embeds=p.guidance_embed,
        axes_dims_rope=tuple(p.axes_dim),
    )
    source, state = flux.state_dict(), {}

    def copy(target, name):
        for part in ("weight", "bias"):
            state[f"{target}.{part}"] = source[f"{name}.{part}"]

    def norm(name):
        # The host's name of a norm's one parameter differs from version to version.
        (found,) = (value for key, value in source.items() if key.rpartition(".")[0] == name)
        return found

    def split(targets, name, sizes):
        for part in ("weight", "bias"):
            for target, piece in zip(targets, source[f"{name}.{part}"].split(sizes), strict=True):
                state[f"{target}.{part}"] = piece

    for target, name in (
        ("timestep_embedder", "time_in"),
        ("text_embedder", "vector_in"),
        ("guidance_embedder", "guidance_in"),
    ):
        copy(f"time_text_embed.{target}.linear_1", f"{name}.in_layer")
        copy(f"time_text_embed.{target}.linear_2", f"{name}.out_layer")
    copy("context_embedder", "txt_in")
    copy("x_embedder", "img_in")
    c = p.hidden_size
    for n in range(p.depth):
        to, of = f"transformer_blocks.{n}", f"double_blocks.{n}"
        copy(f"{to}.norm1.linear", f"{of}.img_mod.lin")
        copy(f"{to}.norm1_context.linear", f"{of}.txt_mod.lin")
        split([f"{to}.attn.to_{x}" for x in "qkv"], f"{of}.img_attn.qkv", c)
        split([f"{to}.attn.add_{x}_proj" for x in "qkv"], f"{of}.txt_attn.qkv", c)
        for target, name in (("norm_q", "img_attn.norm.query_norm"), ("norm_k", "img_attn.norm.key_norm"),
                             ("norm_added_q", "txt_attn.norm.query_norm"),
                             ("norm_added_k", "txt_attn.norm.key_norm")):  # fmt: skip
            state[f"{to}.attn.{target}.weight"] = norm(f"{of}.{name}")
        copy(f"{to}.attn.to_out.0", f"{of}.img_attn.proj")
        copy(f"{to}.attn.to_add_out", f"{of}.txt_attn.proj")
        for target, name in (("ff", "img_mlp"), ("ff_context", "txt_mlp")):
            copy(f"{to}.{target}.net.0.proj", f"{of}.{name}.0")
            copy(f"{to}.{target}.net.2", f"{of}.{name}.2")
    for n in range(p.depth_single_blocks):
        to, of = f"single_transformer_blocks.{n}", f"single_blocks.{n}"
        copy(f"{to}.norm.linear", f"{of}.modulation.lin")
        mlp = source[f"{of}.linear1.bias"].shape[0] - 3 * c
        split([f"{to}.attn.to_{x}" for x in "qkv"] + [f"{to}.proj_mlp"], f"{of}.linear1", [c, c, c, mlp])
        state[f"{to}.attn.norm_q.weight"] = norm(f"{of}.norm.query_norm")
        state[f"{to}.attn.norm_k.weight"] = norm(f"{of}.norm.key_norm")
        copy(f"{to}.proj_out", f"{of}.linear2")
    copy("proj_out", "final_layer.linear")
    for part in ("weight", "bias"):
        # diffusers keeps scale before shift here, the original shift before scale.
        shift, scale = source[f"final_layer.adaLN_modulation.1.{part}"].chunk(2)
        state[f"norm_out.linear.{part}"] = torch.cat((scale, shift))
    model.load_state_dict(state, strict=True)
    return model.eval().to(next(flux.parameters()).dtype)


def diffusers_flux(model, x, timestep, context, y, guidance, latents=(), task=None, index=None):
    """As `slow_flux`, with diffusers' blocks."""
    sequence, ids, owners = slow_sequence(x, latents)
    if task is not None:
        # Added after the input projection, as the released pipeline does.
        rows = condition_vectors(owners, task, index)
        handle = model.x_embedder.register_forward_hook(lambda _m, _i, out: out + rows.to(out))
    out = model(
        hidden_states=sequence,
        timestep=timestep,
        guidance=guidance,
        pooled_projections=y,
        encoder_hidden_states=context,
        txt_ids=torch.zeros(context.shape[1], 3),
        img_ids=ids,
        return_dict=False,
    )[0]
    if task is not None:
        handle.remove()
    return unpatch(out[:, : owners.count(0)], x.shape[2], x.shape[3])
