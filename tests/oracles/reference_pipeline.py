"""The released pipeline's loop with diffusers' and transformers' classes: prompt in, latent out.

Written from the facts of the release (T5 at 512 tokens, a schedule shifted by the number of image tokens, another
guidance in the first step, true guidance over a range of steps with a negative pass that has neither references nor
condition rows); shares no code with the pack. The host lends its autoencoder and its weights.
"""

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .diffusers_flux import diffusers_flux, to_diffusers
from .transformers_t5 import TransformersT5

T5_LENGTH = 512
LATENT_SCALE, LATENT_SHIFT = 0.3611, 0.1159


class ReferencePipeline:
    """FLUX.1 with DreamO's rows.

    Args:
        flux: the host's ModelPatcher around a Flux in float32.
        clip: the host's CLIP for FLUX.1, small enough for `TransformersT5`.
        tables: DreamO's task (2, c), index (10, c) and placeholder (10, d) rows.
        clip_config: of the small CLIP-L.
        clip_tokenizer: folder of CLIP's tokenizer.
    """

    def __init__(self, flux, clip, tables, clip_config, clip_tokenizer):
        self.transformer = to_diffusers(flux.model.diffusion_model)
        self.task, self.index, rows = tables
        self.t5 = TransformersT5(clip.cond_stage_model.t5xxl.transformer, rows)
        self.clip = CLIPTextModel(CLIPTextConfig(**clip_config)).eval()
        own = clip.cond_stage_model.clip_l.transformer.state_dict()
        # Newer transformers leave out the first part of the name.
        prefix = "" if any(key.startswith("text_model.") for key in self.clip.state_dict()) else "text_model."
        state = {key.removeprefix(prefix): value for key, value in own.items() if "text_projection" not in key}
        keys = self.clip.load_state_dict(state, strict=False)
        assert not keys.unexpected_keys and all("position_ids" in key for key in keys.missing_keys)
        self.clip_tokenizer = CLIPTokenizer.from_pretrained(clip_tokenizer)

    def encode(self, prompt):
        ids = self.t5.ids(prompt, T5_LENGTH)
        own = self.clip_tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        return self.t5.hidden_states(ids), self.clip(own["input_ids"]).pooler_output

    def __call__(
        self, prompt, references, height, width, steps, guidance, seed, *, first_guidance=None, negative=None,
        true_cfg=1.0, cfg_steps=(0, 0),
    ):  # fmt: skip
        """The latent (1, 16, h/8, w/8), as the host's VAE takes it.

        Args:
            references: latents as the VAE gives them.
            cfg_steps: first step with true guidance, and first one without it again.
        """
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(1, 16, height // 8, width // 8, generator=generator)
        scheduler = FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096
        )
        mu = calculate_shift((height // 16) * (width // 16), 256, 4096, 0.5, 1.15)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        latents = [(latent - LATENT_SHIFT) * LATENT_SCALE for latent in references]
        text, pooled = self.encode(prompt)
        against = None if negative is None else self.encode(negative)
        for step, t in enumerate(scheduler.timesteps):
            strength = guidance if first_guidance is None or step > 0 else first_guidance
            given = (t.expand(1) / 1000, torch.tensor([strength]))
            velocity = diffusers_flux(
                self.transformer, x, given[0], text, pooled, given[1], latents, self.task, self.index
            )
            if against is not None and cfg_steps[0] <= step < cfg_steps[1]:
                plain = diffusers_flux(self.transformer, x, given[0], *against, given[1])
                velocity = plain + true_cfg * (velocity - plain)
            x = scheduler.step(velocity, t, x, return_dict=False)[0]
        return x / LATENT_SCALE + LATENT_SHIFT
