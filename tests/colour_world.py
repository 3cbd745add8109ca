"""A small Flux with weights set by hand, in which it is known where every reference belongs.

One double block. Colours are the first latent channels; a token's colour is its key and query, in the rotary
dimensions that do not turn (axis 0), so image tokens of a colour match the reference of that colour wherever they are.
What a token gives to those that attend to it is the index embedding of its reference, and the prediction's last
channels say how much has arrived from each: channel 8 + i from reference i.

Nothing in the pack knows of this model; it is an ordinary `small_flux` with other numbers in it.
"""

from pathlib import Path

import torch
from dreamo_routed.dreamo_core.checkpoint import DreamOModel
from dreamo_routed.dreamo_core.pictures.picture import Picture
from dreamo_routed.dreamo_core.sequence.embeddings import Embeddings
from dreamo_routed.dreamo_core.sequence.reference import Reference
from support import small_flux

HIDDEN, HEADS, DIM = 128, 4, 32
COLOURS, PAYLOAD, BALANCE = 8, 8, 64
"""Hidden dimensions: 0…7 the colour, 8…15 which reference, 64… the negatives of both (a mean of 0 for LayerNorm)."""


def colour_flux(sharpness=6.0, leak=0.0):
    """The model.

    Args:
        sharpness: logit, in nats after the scale, of a token towards tokens of its own colour.
        leak: cross-talk: that much of colour 0's query is mixed into colour 1's and the other way round.
    """
    model = small_flux(depth=1, depth_single_blocks=0, axes_dim=[8, 12, 12])
    flux = model.model.diffusion_model
    for parameter in flux.parameters():
        parameter.zero_()
    # Latent channel c, the mean over the 2 × 2 patch, is colour c.
    for c in range(COLOURS):
        flux.img_in.weight[c, 4 * c : 4 * c + 4] = 0.25
        flux.img_in.weight[BALANCE + c, 4 * c : 4 * c + 4] = -0.25
    block = flux.double_blocks[0]
    # Modulation: shift, scale, gate for attention, then for the MLP; only attention's gate is open.
    block.img_mod.lin.bias[2 * HIDDEN : 3 * HIDDEN] = 1
    mix = torch.eye(COLOURS)
    mix[0, 1] = mix[1, 0] = leak
    qkv = block.img_attn.qkv.weight.view(3, HEADS, DIM, HIDDEN)
    for head in range(HEADS):
        qkv[0, head, :COLOURS, :COLOURS] = mix
        qkv[1, head, :COLOURS, :COLOURS] = torch.eye(COLOURS)
        # Each head carries what its reference gives in its first dimensions; the projection adds the heads up.
        qkv[2, head, :PAYLOAD, COLOURS : COLOURS + PAYLOAD] = torch.eye(PAYLOAD) / HEADS
        out = block.img_attn.proj.weight.view(HIDDEN, HEADS, DIM)[:, head, :PAYLOAD]
        out[COLOURS : COLOURS + PAYLOAD] = torch.eye(PAYLOAD)
        out[BALANCE + COLOURS : BALANCE + COLOURS + PAYLOAD] = -torch.eye(PAYLOAD)
    # q and k are brought to mean square 1, so a match of one dimension is DIM; divided by √DIM and set to `sharpness`.
    scale = (sharpness / DIM**0.5) ** 0.5
    for stream in (block.img_attn, block.txt_attn):
        for weight in stream.norm.parameters():
            weight.fill_(scale)
    # What has arrived from reference i is latent channel 8 + i, the same in the whole patch.
    for i in range(PAYLOAD):
        flux.final_layer.linear.weight[4 * (COLOURS + i) : 4 * (COLOURS + i) + 4, COLOURS + i] = 1
    return model


def colour_dreamo():
    """DreamO embeddings whose index rows say which reference a token is of, and nothing else."""
    index = torch.zeros(10, HIDDEN)
    for i in range(1, 10):
        if i < PAYLOAD:
            index[i, COLOURS + i], index[i, BALANCE + COLOURS + i] = 4.0, -4.0
    return DreamOModel(Path("colours.safetensors"), Embeddings(torch.zeros(2, HIDDEN), index))


def solid(colour, height=8, width=8, amount=6.0, **values):
    """A reference that is one colour; its latent is as the VAE would give it, before the host scales it."""
    latent = torch.zeros(1, 16, height, width)
    latent[:, colour] = amount
    latent = latent / 0.3611 + 0.1159
    return Reference(Picture(torch.rand(1, height * 8, width * 8, 3)), latent, "subject", **values)


def painted(regions, height=40, width=40, amount=6.0, background=2):
    """A latent whose rectangles have their colours: {colour: (top, left, bottom, right)} in tokens, and their masks."""
    latent, masks = torch.zeros(1, 16, height, width), {}
    latent[:, background] = amount
    for colour, (top, left, bottom, right) in regions.items():
        part = (slice(None), slice(None), slice(2 * top, 2 * bottom), slice(2 * left, 2 * right))
        latent[part] = 0
        latent[:, colour : colour + 1][part] = amount
        masks[colour] = torch.zeros(height // 2, width // 2, dtype=torch.bool)
        masks[colour][top:bottom, left:right] = True
    return latent / 0.3611 + 0.1159, masks
