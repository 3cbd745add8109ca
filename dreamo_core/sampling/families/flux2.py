"""FLUX.2: dev, klein base and klein distilled.

Four RoPE axes, the last for text; a token is one latent pixel of 128 channels, 16 pixels of the picture as in FLUX.1;
no pooled text; one modulation for all double blocks and one for all single ones; a gated MLP.
"""

from __future__ import annotations

from .family import Family


class Flux2(Family):
    name = "FLUX.2"
    latent_pixels = 16
    latent_channels = 128
    pads_text_left = True

    def fits(self, diffusion_model):
        params = getattr(diffusion_model, "params", None)
        return len(getattr(params, "axes_dim", ())) == 4 and getattr(params, "global_modulation", False)

    def first_modulation(self, diffusion_model, vec, y):
        first, _ = diffusion_model.double_stream_modulation_img(vec)
        return first.scale.flatten(1).float(), first.shift.flatten(1).float()


FLUX2 = Flux2()
