"""The mini world's models joined as in a user's graph; import it after `boot`."""

from __future__ import annotations

from pathlib import Path

import torch
from dreamo_routed.dreamo_core.checkpoint import load_dreamo_model
from dreamo_routed.dreamo_core.host.lora import with_loras
from dreamo_routed.dreamo_core.host.vae import encode_reference
from dreamo_routed.dreamo_core.pictures.picture import Picture
from dreamo_routed.dreamo_core.sequence.reference import Reference
from dreamo_routed.minidreamo.host import mini_world

from minidreamo import art, scenes
from minidreamo.score import Task


class Host:
    """Base with DreamO's LoRA, text encoders and VAE.

    Args:
        dreamo: a `dreamo.safetensors`.
    """

    def __init__(self, dreamo: Path):
        self.dreamo, self.vae = load_dreamo_model(dreamo), mini_world.MiniVae()
        self.clip = mini_world.mini_text_encoders()
        self.model = with_loras(mini_world.mini_flux(), [(self.dreamo.lora, 1.0)])

    def chain_of(self, world: art.Art, task: Task) -> tuple[Reference, ...]:
        chain = []
        for subject in task.scene.references:
            shown = torch.from_numpy(scenes.draw_reference(world, subject))[None].float() / 255
            chain.append(Reference(Picture(shown), encode_reference(self.vae, shown), "subject"))
        return tuple(chain)
