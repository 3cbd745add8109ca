"""Chains of samplers as a graph has them."""

import nodes
from comfy_extras import nodes_custom_sampler
from support import (
    empty_latent,
    sample,
)


def node(name):
    """A stock node's function, called with its inputs by name; the outputs."""
    cls = nodes.NODE_CLASS_MAPPINGS[name]
    return lambda **inputs: getattr(cls(), cls.FUNCTION)(**inputs)


def advanced(guider, sampler="euler", steps=3):
    noise = nodes_custom_sampler.RandomNoise.execute(1).result[0]
    chosen = nodes_custom_sampler.KSamplerSelect.execute(sampler).result[0]
    sigmas = nodes_custom_sampler.BasicScheduler.execute(guider.model_patcher, "simple", steps, 1.0).result[0]
    run = nodes_custom_sampler.SamplerCustomAdvanced.execute
    return run(noise, guider, chosen, sigmas, {"samples": empty_latent()}).result[0]["samples"]


def steps_of(model, positive, seed, steps=3):
    """Sample one step at a time, as a graph of KSampler (Advanced) nodes does; yields each latent."""
    latent = empty_latent()
    for n in range(steps):
        latent = sample(
            model, positive, latent=latent, seed=seed, steps=steps, disable_noise=n > 0, start_step=n, last_step=n + 1
        )
        yield latent
