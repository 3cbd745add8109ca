"""What other packs do to a model or a conditioning, as small as it can be said; none of their code.

Each stands for a kind, not for one pack: a replaced forward (caches, identity adapters), cropped reference latents
(upscalers that work tile by tile), tiles in batches (tiled diffusion), comments in prompts (prompt languages).
"""

import types
from unittest import mock

import torch
from comfy.ldm.flux.layers import timestep_embedding


def _own_forward(self, img, img_ids, txt, txt_ids, timesteps, y, guidance=None, control=None, *args, **kwargs):
    """An old copy of the host's loop over blocks: it knows neither `post_input` nor `transformer_options`."""
    img, txt = self.img_in(img), self.txt_in(txt)
    vec = self.time_in(timestep_embedding(timesteps, 256).to(img.dtype)) + self.vector_in(y)
    if self.params.guidance_embed:
        vec = vec + self.guidance_in(timestep_embedding(guidance, 256).to(img.dtype))
    pe = self.pe_embedder(torch.cat((txt_ids, img_ids), dim=1))
    for block in self.double_blocks:
        img, txt = block(img=img, txt=txt, vec=vec, pe=pe)
    img = torch.cat((txt, img), 1)
    for block in self.single_blocks:
        img = block(img, vec=vec, pe=pe)
    return self.final_layer(img[:, txt.shape[1] :], vec)


# As the host names the modules of a pack that lies in its folder.
_own_forward.__module__ = "/somewhere/custom_nodes/ComfyUI-FirstCache.nodes.flux"


def with_replaced_forward(model):
    """A clone whose Flux runs a forward of the pack's own, put there for the time of each model call."""

    def wrapper(apply_model, args):
        flux = model.model.diffusion_model
        with mock.patch.object(flux, "forward_orig", types.MethodType(_own_forward, flux)):
            return apply_model(args["input"], args["timestep"], **args["c"])

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


def with_cropped_latents(conditioning, size=(36, 36)):
    """A copy whose reference latents are cut to a part and stretched to a tile's size."""
    result = []
    for cond, values in conditioning:
        latents = [
            torch.nn.functional.interpolate(latent[..., : latent.shape[-1] // 2], size=size)
            for latent in values["reference_latents"]
        ]
        result.append([cond, {**values, "reference_latents": latents}])
    return result


def _repeated(value, batch, tiles):
    return torch.cat([value] * tiles) if torch.is_tensor(value) and value.ndim and value.shape[0] == batch else value


def with_tiles(model, tiles, tile_batch=1):
    """A clone that is run tile by tile over the width, `tile_batch` of them in one call, at each step.

    Tensors of the call are repeated to the batch of the tiles, lists of tensors are not.

    Args:
        tiles: pairs of first and one-past-last latent column, all of one width where `tile_batch` is above 1.
    """

    def wrapper(apply_model, args):
        x, batch = args["input"], args["input"].shape[0]
        out, count = torch.zeros_like(x), torch.zeros_like(x)
        for start in range(0, len(tiles), tile_batch):
            chosen = tiles[start : start + tile_batch]
            tile = torch.cat([x[..., left:right] for left, right in chosen])
            c = {key: _repeated(value, batch, len(chosen)) for key, value in args["c"].items()}
            t = _repeated(args["timestep"], batch, len(chosen))
            for (left, right), part in zip(chosen, apply_model(tile, t, **c).split(batch), strict=True):
                out[..., left:right] += part
                count[..., left:right] += 1
        return out / count

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


def without_comments(prompt):
    """What a prompt language leaves: from a `#` on a line is a comment; a backslash in front makes it a character."""
    lines = []
    for line in prompt.split("\n"):
        kept = line.replace("\\#", "\0").split("#")[0]
        lines.append(kept.replace("\0", "#"))
    return "\n".join(lines)
