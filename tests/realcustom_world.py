"""A small SDXL with a RealCustom file, its prompts and pictures, and the slow twin that it is compared with."""

import copy
import functools
import math
from dataclasses import dataclass

import nodes
import torch
from dreamo_routed.dreamo_core.host.realcustom import attach_subjects
from dreamo_routed.dreamo_core.realcustom.settings import RealCustomSettings
from dreamo_routed.dreamo_core.realcustom.subject import Subject
from dreamo_routed.minidreamo.host import small_sdxl

PROMPT = "a photo of a cat beside a teapot, evening light"
NEGATIVE = "blurry"


@dataclass(frozen=True)
class World:
    model: object
    clip: object
    realcustom: object

    def encode(self, text):
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))


@functools.cache
def world(kind="sdxl", shallow=False):
    """Small models that nothing changes; a test that patches one takes a clone, as the host does."""
    small = {"sdxl": small_sdxl.small_sdxl, "sd15": small_sdxl.small_sd15}[kind]()
    clip = {"sdxl": small_sdxl.small_sdxl_clip, "sd15": small_sdxl.small_sd15_clip}[kind]()
    return World(small, clip, small_sdxl.small_realcustom(small, shallow))


def picture(seed=0):
    return torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(seed))


def subject(words=("cat",), seed=0, **values):
    return Subject(picture(seed), words, **values)


def attach(subjects, at=None, prompt=PROMPT, negative=NEGATIVE, model=None, positive=None, settings=None, **options):
    """Model, positive and negative with subjects on them."""
    at = at or world()
    settings = settings or RealCustomSettings()
    positive = at.encode(prompt) if positive is None else positive
    return attach_subjects(
        model or at.model, positive, at.encode(negative), at.realcustom, subjects, at.clip, prompt, settings, **options
    )


def latent(height=16, width=24, batch=1):
    return torch.zeros(batch, 4, height, width)


def sample(model, positive, negative, size=None, cfg=7.5, steps=3, sampler="euler", seed=1, **options):
    held = {"samples": latent() if size is None else size}
    if "noise_mask" in options:
        held["noise_mask"] = options.pop("noise_mask")
    scheduler = options.pop("scheduler", "normal")
    (out,) = nodes.common_ksampler(model, seed, steps, cfg, sampler, scheduler, positive, negative, held, **options)
    return out["samples"]


def relative(found, expected):
    """Largest difference, as a part of the largest value."""
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


# The slow twin: the same UNet in float64, with every attention written out, and none of the host's patches.


class Twin:
    """A copy of a UNet in float64 whose attentions are explicit softmaxes that keep their probabilities.

    `vision[name] = (k weight, v weight)`; `pictures` is a list of (tokens, mask (b, h, w) in [0, 1], strength).
    """

    def __init__(self, model, vision):
        self.base = model.model
        self.unet = copy.deepcopy(model.model.diffusion_model).double()
        self.vision = vision
        self.pictures, self.cross, self.own = [], {}, {}
        self.middle = set()
        for name, module in self.unet.named_modules():
            if name.endswith((".attn1", ".attn2")):
                module.forward = functools.partial(self._attend, name, module)

    def _attend(self, name, module, x, context=None, value=None, mask=None, transformer_options=None):
        heads = lambda t: t.reshape(len(t), -1, module.heads, t.shape[-1] // module.heads).transpose(1, 2)  # noqa: E731
        context = x if context is None else context
        q, k, v = heads(module.to_q(x)), heads(module.to_k(context)), heads(module.to_v(context))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        out = weights @ v
        size = tuple(transformer_options["activations_shape"][-2:])
        (self.cross if name.endswith("attn2") else self.own)[name] = (weights.mean(1), size)
        if name.endswith("attn2"):
            for tokens, where, strength in self.pictures:
                k_weight, v_weight = (weight.double() for weight in self.vision[name])
                k, v = heads(tokens.double() @ k_weight.T), heads(tokens.double() @ v_weight.T)
                seen = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
                plane = torch.nn.functional.interpolate(where.unsqueeze(1), size=size, mode="bilinear")
                out = out + strength * seen * plane.flatten(2).transpose(1, 2).unsqueeze(1)
        return module.to_out(out.transpose(1, 2).flatten(2))

    def eps(self, x, sigma, context, y, pictures=()):
        self.pictures, self.cross, self.own = list(pictures), {}, {}
        sampling = self.base.model_sampling
        t = sampling.timestep(torch.tensor([sigma])).double().expand(len(x))
        x = x / math.sqrt(sigma**2 + 1)
        options = {}
        y = None if y is None else y.double().expand(len(x), -1)
        return self.unet(x, t, context=context.double().expand(len(x), -1, -1), y=y, transformer_options=options)

    def map_of(self, positions, grid, source):
        """A word's map (b, h, w), written out."""
        factors = {name: size[0] * size[1] for name, (_, size) in self.cross.items() if not name.startswith("middle")}
        planes = []
        for weights, size in self.cross.values():
            if source == "paper" and size[0] * size[1] != min(factors.values()):
                continue
            plane = weights[:, :, list(positions)].sum(-1).unflatten(-1, size).unsqueeze(1)
            plane = torch.nn.functional.interpolate(plane, size=grid, mode="bilinear").squeeze(1)
            planes.append(_stretch(plane) if source == "released" else plane)
        average = torch.stack(planes).mean(0)
        if source == "released":
            return _stretch(average)
        finest = max(size[0] * size[1] for _, size in self.own.values())
        refined = []
        for weights, size in self.own.values():
            if size[0] * size[1] == finest:
                at = torch.nn.functional.interpolate(average.unsqueeze(1), size=size, mode="bilinear")
                moved = (weights @ at.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(-1, size)
                refined.append(torch.nn.functional.interpolate(moved, size=grid, mode="bilinear").squeeze(1))
        return torch.stack(refined).mean(0)


def _stretch(plane):
    low, high = plane.amin((-2, -1), keepdim=True), plane.amax((-2, -1), keepdim=True)
    return (plane - low) / (high - low + 1e-6)


def slow_masks(maps, gammas, source):
    """Algorithm 1 and Eq. 15 by their words, sample by sample: list of (b, h, w)."""
    result = [torch.zeros_like(one) for one in maps]
    for s in range(len(maps[0])):
        flat = [one[s].flatten() for one in maps]
        n = len(flat[0])
        left, free = [int(gamma * n + 1e-9) for gamma in gammas], set(range(n))
        while any(left):
            for i, values in enumerate(flat):
                if left[i]:
                    best = max(free, key=lambda at: float(values[at]))
                    free.remove(best)
                    result[i][s].view(-1)[best] = values[best]
                    left[i] -= 1
        if source == "paper":
            for one in result:
                one[s] /= one[s].max()
    return result


def slow_sample(at, subjects, words, source, cfg, size, steps=3, seed=1, stop=0.48, prompt=PROMPT, negative=NEGATIVE):
    """Euler by hand on the twin: what `attach` and `sample` should give. `words` are positions of each subject."""
    import comfy.sample
    import comfy.samplers

    names = at.realcustom.attention(at.model).model
    vision = {name: (names.pairs[i].to_k.weight, names.pairs[i].to_v.weight) for name, i in names.names.items()}
    twin = Twin(at.model, vision)
    sigmas = comfy.samplers.calculate_sigmas(at.model.model.model_sampling, "normal", steps).double()
    noise = comfy.sample.prepare_noise(size, seed).double()
    sampling = at.model.model.model_sampling
    x = sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), max_denoise=True)

    def condition(text):
        ((cond, values),) = at.encode(text)
        if at.model.model.adm_channels == 0:
            return cond, None
        return cond, at.model.model.encode_adm(
            pooled_output=values["pooled_output"], width=size.shape[-1] * 8, height=size.shape[-2] * 8, device="cpu"
        )

    positive, unconditional = condition(prompt), condition(negative)
    tokens = [at.realcustom.tokens(one.picture) for one in subjects]
    black = at.realcustom.tokens(torch.zeros(1, 64, 64, 3))
    grid, masks = tuple(-(-side // 2) for side in size.shape[-2:]), None
    for i in range(steps):
        sigma = float(sigmas[i])
        if masks is None or i / steps < stop:
            twin.eps(x, sigma, *positive)
            maps = [twin.map_of(at_, grid, source) for at_ in words]
            masks = slow_masks(maps, [one.gamma for one in subjects], source)
        seen = list(zip(tokens, masks, [one.strength for one in subjects], strict=True))
        eps = twin.eps(x, sigma, *positive, seen)
        if cfg != 1.0:
            dark = [(black, mask, one.strength) for mask, one in zip(masks, subjects, strict=True)]
            without = twin.eps(x, sigma, *unconditional, dark)
            eps = without + cfg * (eps - without)
        x = x + eps * (sigmas[i + 1] - sigmas[i])
    return at.model.model.process_latent_out(x)
