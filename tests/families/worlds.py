"""A small random model of each family with a conditioning on which stock nodes put references."""

from dataclasses import dataclass

import torch
from comfy_extras.nodes_edit_model import ReferenceLatent
from comfy_extras.nodes_flux import FluxKontextMultiReferenceLatentMethod
from dreamo_routed.minidreamo.host import small_models
from support import make_conditioning

SIZES = [(4, 5), (6, 3), (3, 7), (5, 5)]
"""Rows and columns of tokens of the references."""

GRID = (6, 8)
"""Rows and columns of tokens of the picture."""


@dataclass(frozen=True)
class World:
    """A family, and how the host places its references: `method` as its node names it, None for the model's own."""

    family: str
    method: str | None = None
    guidance: bool = False

    @property
    def patch(self):
        return 1 if self.family == "FLUX.2" else 2

    @property
    def channels(self):
        return 128 if self.family == "FLUX.2" else 16

    def model(self, **config):
        make = small_models.small_flux2 if self.family == "FLUX.2" else small_models.small_flux
        small = {"depth": 1, "depth_single_blocks": 1, "hidden_size": 64, "num_heads": 2}
        return make(**(small | ({"guidance_embed": True} if self.guidance else {}) | config))

    def latent(self, grid=GRID, batch=1, seed=None):
        shape = (batch, self.channels, grid[0] * self.patch, grid[1] * self.patch)
        return torch.zeros(shape) if seed is None else torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def references(self, count):
        return [self.latent(SIZES[n], seed=50 + n) for n in range(count)]

    def with_latents(self, latents, conditioning=None):
        """A conditioning behind one ReferenceLatent node for each latent."""
        conditioning = conditioning or make_conditioning()
        for latent in latents:
            conditioning = ReferenceLatent.execute(conditioning, {"samples": latent}).result[0]
        if self.method is not None:
            conditioning = FluxKontextMultiReferenceLatentMethod.execute(conditioning, self.method).result[0]
        return conditioning

    def positive(self, count=2, conditioning=None):
        return self.with_latents(self.references(count), conditioning)

    def __str__(self):
        return f"{self.family} {self.method or 'own'}{' guidance' if self.guidance else ''}"


def host_has(method):
    inputs = FluxKontextMultiReferenceLatentMethod.define_schema().inputs
    return any(method in (getattr(one, "options", None) or ()) for one in inputs)


WORLDS = [
    World("FLUX.1", "offset", True),
    World("FLUX.1", "index", True),
    World("FLUX.1", "uxo/uno", True),
    World("FLUX.2"),
    World("FLUX.2", "offset"),
    World("FLUX.2", guidance=True),
]
if host_has("index_timestep_zero"):
    WORLDS.append(World("FLUX.2", "index_timestep_zero"))
