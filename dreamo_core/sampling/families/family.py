"""What a family of models does its own way; all else the model call reads from its arguments.

A family is described by what its diffusion model has, never by its class, so this room needs no host.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from ...reuse.cost import ModelShape

DIAGONAL = "uxo"
"""The host's name of the diagonal layout of UNO and DreamO, which we lay out ourselves. All other layouts stay as the
host made them."""

TIMESTEP_ZERO = "index_timestep_zero"
"""The host's name of the layout in which reference tokens are modulated as at t = 0."""


class Family(ABC):
    """One family.

    Attributes:
        name: for messages.
        latent_pixels: side of a latent pixel in the picture.
        latent_channels: of its VAE.
        text_tokens: length of the text as trained.
        pads_text_left: whether the host puts padding in front of shorter text.
    """

    name: str
    latent_pixels: int
    latent_channels: int
    text_tokens: int = 512
    pads_text_left: bool = False

    @abstractmethod
    def fits(self, diffusion_model: Any) -> bool:
        """Whether a diffusion model is of this family."""

    @abstractmethod
    def first_modulation(
        self, diffusion_model: Any, vec: torch.Tensor, y: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(scale, shift) that the first block puts on normed image tokens, (b, c) each, float32.

        Args:
            vec: (b, c) what the model makes of time and guidance.
            y: (b, d) pooled text, or None.
        """

    def method(self, diffusion_model: Any, given: str | None) -> str:
        """How the host places the references of a call: what the conditioning says, or else the model's own way."""
        return given or getattr(diffusion_model.params, "default_ref_method", "offset")

    def depths(self, diffusion_model: Any) -> tuple[int, int]:
        """Numbers of double and of single blocks."""
        return len(diffusion_model.double_blocks), len(diffusion_model.single_blocks)

    def shape(self, diffusion_model: Any) -> ModelShape:
        """Sizes for the cost model."""
        params = diffusion_model.params
        gated = getattr(params, "mlp_silu_act", False) or getattr(params, "yak_mlp", False)
        blocks = sum(self.depths(diffusion_model))
        return ModelShape(params.hidden_size, params.num_heads, params.mlp_ratio, blocks, 3 if gated else 2)

    def text_moved(self, context: int, words_of: int | None) -> int:
        """How many positions the host moves the text tokens of a conditioning by its own padding.

        Args:
            context: number of text tokens in the model call.
            words_of: number of text tokens of the conditioning, None where nobody knows.
        """
        return max(0, context - words_of) if self.pads_text_left and words_of is not None else 0
