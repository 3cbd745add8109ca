"""FLUX.1-dev and FLUX.1 Kontext: the same network, told apart only by where references are placed."""

from __future__ import annotations

from .family import Family


class Flux1(Family):
    name = "FLUX.1"
    latent_pixels = 8
    latent_channels = 16

    def fits(self, diffusion_model):
        params = getattr(diffusion_model, "params", None)
        axes = getattr(params, "axes_dim", ())
        return len(axes) == 3 and getattr(params, "vec_in_dim", None) is not None

    def first_modulation(self, diffusion_model, vec, y):
        vec = vec + diffusion_model.vector_in(y[:, : diffusion_model.params.vec_in_dim].to(vec))
        first, _ = diffusion_model.double_blocks[0].img_mod(vec)
        return first.scale.flatten(1).float(), first.shift.flatten(1).float()


FLUX1 = Flux1()
