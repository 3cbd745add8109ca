"""The host's VAE."""

from __future__ import annotations

from typing import Any

import torch

LATENT_CHANNELS = 16


def encode_reference(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """VAE latent of a prepared picture: (1, h, w, 3) to (1, 16, h/8, w/8).

    Raises:
        ValueError: the VAE is not a FLUX.1 one, or its latent is not finite.
    """
    latent = vae.encode(pixels)
    if latent.ndim != 4 or latent.shape[1] != LATENT_CHANNELS:
        raise ValueError(
            f"The VAE makes latents of shape {tuple(latent.shape)}, DreamO needs the FLUX.1 VAE with "
            f"{LATENT_CHANNELS} channels; load ae.safetensors with Load VAE."
        )
    if not torch.isfinite(latent).all():
        raise ValueError("The VAE made a latent that is NaN or infinite; try it in fp32 (--fp32-vae).")
    return latent
