"""What many tests need: small models, references without a VAE, sampling, and a look inside the model call."""

from dataclasses import dataclass
from pathlib import Path

import nodes
import torch
from comfy.patcher_extension import WrappersMP
from dreamo_routed.dreamo_core.checkpoint import DreamOModel
from dreamo_routed.dreamo_core.pictures.picture import Picture
from dreamo_routed.dreamo_core.sequence.embeddings import Embeddings
from dreamo_routed.dreamo_core.sequence.reference import Reference
from dreamo_routed.minidreamo.host import small_models
from dreamo_routed.nodes.apply import DreamOApply

REPO = Path(__file__).resolve().parent.parent


def make_embeddings(hidden=128, seed=7, scale=0.5):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda rows, width: torch.randn(rows, width, generator=generator) * scale  # noqa: E731
    return Embeddings(draw(2, hidden), draw(10, hidden), draw(10, 64))


def make_model(hidden=128, seed=7):
    return DreamOModel(Path("dreamo.safetensors"), make_embeddings(hidden, seed))


def make_reference(height=8, width=8, seed=0, **values):
    """A reference with a random latent of that size; what the VAE would make of some picture."""
    latent = torch.randn(1, 16, height, width, generator=torch.Generator().manual_seed(100 + seed))
    return Reference(Picture(torch.rand(1, height * 8, width * 8, 3)), latent, "subject", **values)


REFERENCE_SIZES = [(8, 8), (6, 10), (12, 4), (4, 4), (10, 6), (8, 4), (4, 8), (6, 6), (2, 14)]


def make_chain(count, **values):
    return tuple(make_reference(*REFERENCE_SIZES[i], seed=i, **values) for i in range(count))


def make_conditioning(seed=0, tokens=7, width=64, pooled=64, **values):
    generator = torch.Generator().manual_seed(200 + seed)
    text = torch.randn(1, tokens, width, generator=generator)
    return [[text, {"pooled_output": torch.randn(1, pooled, generator=generator), "guidance": 3.5, **values}]]


def empty_latent(height=16, width=24, batch=1):
    return torch.zeros(batch, 16, height, width)


def apply_dreamo(model, positive, references, dreamo_model=None):
    return DreamOApply.execute(model, positive, references, dreamo_model or make_model()).result


def sample(model, positive, negative=None, latent=None, seed=1, steps=3, cfg=1.0, sampler="euler", **options):
    """What the KSampler node does; returns the latent."""
    latent = {"samples": latent if latent is not None else empty_latent()}
    if "noise_mask" in options:
        latent["noise_mask"] = options.pop("noise_mask")
    negative = negative if negative is not None else make_conditioning(99)
    scheduler = options.pop("scheduler", "simple")
    return nodes.common_ksampler(model, seed, steps, cfg, sampler, scheduler, positive, negative, latent, **options)[0][
        "samples"
    ]


@dataclass
class Call:
    """One call of the diffusion model, as it went in and out."""

    x: torch.Tensor
    timestep: torch.Tensor
    context: torch.Tensor
    y: torch.Tensor
    guidance: torch.Tensor
    ref_latents: list
    options: dict
    output: torch.Tensor


def record(model):
    """A clone of `model` and the list that its diffusion model's calls will be appended to."""
    calls = []

    def wrapper(executor, x, timestep, context, y, guidance, ref_latents, control, options, **kwargs):
        arguments = [x.clone(), timestep.clone(), context.clone(), y, guidance, ref_latents, options]
        output = executor(x, timestep, context, y, guidance, ref_latents, control, options, **kwargs)
        calls.append(Call(*arguments, output.clone()))
        return output

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "recorder", wrapper)
    return model, calls


def small_flux(**config):
    return small_models.small_flux(**config)
