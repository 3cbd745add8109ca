"""USO's style tokens for any batch: what the host's USOStyleReference does for a batch of one."""

from __future__ import annotations

from typing import Any

import torch

LAYERS = (-20, -11, -2)
"""Of SigLIP, from coarse to fine, in the order in which the host's projector takes them (arXiv 2508.18966)."""


class StyleTokens:
    """A `post_input` patch in the host's own protocol: style tokens in front of the text, for every sample.

    Args:
        projector: the host's MODEL_PATCH around USO's projector.
        features: (layers, n, t, c) of n style pictures: one for all samples, or as many as the latent batch has.
    """

    def __init__(self, projector: Any, features: torch.Tensor):
        self.projector, self.features = projector, features

    def __call__(self, args: dict[str, Any]) -> dict[str, Any]:
        txt, ids = args["txt"], args["txt_ids"]
        tokens = self.projector.model(self.features.to(txt)).to(txt)
        times, rest = divmod(txt.shape[0], tokens.shape[0])
        if rest:
            raise ValueError(
                f"There are {tokens.shape[0]} style pictures for a batch of {txt.shape[0]}; give DreamO USO Style one, "
                "or as many as the latent batch has. Two styles in one picture: chain two of these nodes."
            )
        # With true guidance the batch is the positive and the negative prompt, one after the other.
        tokens = tokens.repeat(times, 1, 1)
        return {
            **args,
            "txt": torch.cat((tokens, txt), dim=1),
            "txt_ids": torch.cat((ids.new_zeros(ids.shape[0], tokens.shape[1], ids.shape[2]), ids), dim=1),
        }

    def to(self, device_or_dtype: Any) -> StyleTokens:
        if isinstance(device_or_dtype, torch.device):
            self.features = self.features.to(device_or_dtype)
        return self

    def models(self) -> list[Any]:
        """What the host has to load for it."""
        return [self.projector]


def with_uso_style(model: Any, projector: Any, seen: Any) -> Any:
    """A clone of the ModelPatcher with the style of what an image encoder saw.

    Args:
        projector: MODEL_PATCH of uso-flux1-projector-v1.
        seen: CLIP_VISION_OUTPUT of SigLIP, of one picture or a batch.
    """
    states = seen.all_hidden_states
    features = torch.stack([*(states[:, layer] for layer in LAYERS[:2]), seen.penultimate_hidden_states])
    model = model.clone()
    model.set_model_post_input_patch(StyleTokens(projector, features))
    return model
