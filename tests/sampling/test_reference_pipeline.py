"""From prompt to final latent: the nodes on a server against the released pipeline's loop (`-s` for figures)."""

import copy
from pathlib import Path

import comfy.sd1_clip
import numpy as np
import pytest
import torch
from dreamo_routed.minidreamo.host import small_models
from oracles.reference_pipeline import ReferencePipeline
from PIL import Image
from safetensors.torch import load_file

LIMIT = 1e-5
"""Of the relative difference of final latents."""
PROMPT = "a woman from [ref#1] and a cat from [ref#2] on a bench, photo"
NEGATIVE = "blurry, low quality"
PICTURES = ("dreamo_astronaut.png", "dreamo_rocket.png")


@pytest.fixture(scope="module")
def pipeline(demo_server):
    tables = load_file(demo_server.base / "models" / "dreamo" / "dreamo.safetensors")
    flux = small_models.small_flux(0, **small_models.DEMO_FLUX_CONFIG)
    rows = [tables[f"dreamo_{name}_embedding.weight"] for name in ("task", "idx", "t5")]
    config = {**small_models.TEXT_CONFIG["clip_l_model_config"], "hidden_act": "quick_gelu"}
    folder = Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer"
    return ReferencePipeline(flux, small_models.small_text_encoders(0), rows, config, folder)


@pytest.fixture(scope="module")
def latents(demo_server):
    """The references as the small VAE encodes them; squares of the references' own size, so that nothing is resized."""
    vae = small_models.small_vae(0)
    for name in PICTURES:
        with Image.open(demo_server.base / "input" / name) as picture:
            square = picture.convert("RGB").crop((0, 0, 256, 256))
        square.save(demo_server.base / "input" / f"square_{name}")
    read = lambda name: np.array(Image.open(demo_server.base / "input" / f"square_{name}"))  # noqa: E731
    return [vae.encode(torch.from_numpy(read(name)).float()[None] / 255) for name in PICTURES]


def prompt_for(count):
    return PROMPT if count == 2 else PROMPT.replace("[ref#2]", "Spain")


class Prompt(dict):
    """A prompt for the server under construction."""

    def add(self, kind, **inputs):
        number = str(len(self) + 1)
        self[number] = {"class_type": kind, "inputs": inputs}
        return lambda output=0: [number, output]


def graph(width, height, steps, guidance, *, count=2, first_guidance=None, true_cfg=1.0, cfg_steps=None):
    prompt = Prompt()
    models = prompt.add("DreamODemoModels", seed=0)
    dreamo = prompt.add("DreamOLoader", dreamo_name="dreamo.safetensors")
    chain = {}
    for name in PICTURES[:count]:
        image = prompt.add("LoadImage", image=f"square_{name}")
        reference = prompt.add(
            "DreamOReference", image=image(), vae=models(2), task="style", resolution=256, strength=1.0,
            start_percent=0.0, end_percent=1.0, **chain,
        )  # fmt: skip
        chain = {"references": reference()}

    def encode(text, value):
        return prompt.add(
            "DreamOTextEncode", clip=models(1), dreamo_model=dreamo(), prompt=text, guidance=value, t5_length=512
        )

    positive = encode(prompt_for(count), guidance)
    if first_guidance is not None:
        # A range from the end of the first step: (1 − ½) / steps.
        first = encode(PROMPT, first_guidance)
        first = prompt.add("ConditioningSetTimestepRange", conditioning=first(), start=0.0, end=0.5 / steps)
        rest = prompt.add("ConditioningSetTimestepRange", conditioning=positive(), start=0.5 / steps, end=1.0)
        positive = prompt.add("ConditioningCombine", conditioning_1=first(), conditioning_2=rest())
    latent = prompt.add("EmptySD3LatentImage", width=width, height=height, batch_size=1)
    applied = prompt.add(
        "DreamOApply", model=models(), positive=positive(), dreamo_model=dreamo(), latent=latent(),
        schedule="as released", **chain,
    )  # fmt: skip
    model = applied
    if cfg_steps:
        model = prompt.add(
            "DreamOTrueCFGRange", model=applied(), start_percent=0.0, end_percent=1.0, unit="steps",
            start_step=cfg_steps[0], end_step=cfg_steps[1],
        )  # fmt: skip
    sampled = prompt.add(
        "KSampler", model=model(), positive=applied(1), negative=encode(NEGATIVE, guidance)(), latent_image=latent(),
        seed=3, steps=steps, cfg=true_cfg, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip
    prompt.add("SaveLatent", samples=sampled(), filename_prefix="latents/faithful")
    return prompt


def sampled(server, prompt):
    """The latent that the server saved."""
    before = set(server.base.glob("output/latents/faithful*"))
    server.run(prompt)
    (file,) = set(server.base.glob("output/latents/faithful*")) - before
    return load_file(file)["latent_tensor"]


def relative(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


GUIDANCE = 4.5
CASES = {
    "768": ((768, 768), {}),
    "768, first-step guidance": ((768, 768), {"first_guidance": 7.0}),
    "768 x 1024, true CFG": ((768, 1024), {"true_cfg": 3.0, "cfg_steps": (1, 3)}),
    "1024, one reference": ((1024, 1024), {"count": 1}),
}


@pytest.mark.parametrize("steps", [3, pytest.param(12, marks=pytest.mark.long)])
@pytest.mark.parametrize("case", CASES)
def test_the_nodes_give_what_the_released_pipeline_gives(demo_server, pipeline, latents, case, steps):
    (width, height), options = CASES[case]
    count = options.get("count", 2)
    ours = sampled(demo_server, graph(width, height, steps, GUIDANCE, **options))
    others = {name: value for name, value in options.items() if name != "count"}
    theirs = pipeline(
        prompt_for(count), latents[:count], height, width, steps, GUIDANCE, 3, negative=NEGATIVE, **others
    )
    print(f"\n{case}, {steps} steps: relative difference {relative(ours, theirs):.1e}", end="")
    assert relative(ours, theirs) <= LIMIT


def test_each_part_matters(demo_server, pipeline, latents):
    """Guards the figures above: leaving out any one is far beyond the limit."""
    theirs = pipeline(prompt_for(2), latents, 512, 512, 3, GUIDANCE, 3)
    whole = graph(512, 512, 3, GUIDANCE)
    assert relative(sampled(demo_server, whole), theirs) <= LIMIT
    for kind, changed in (
        ("DreamOTextEncode", {"t5_length": 0}),
        ("DreamOApply", {"schedule": "the model's own"}),
        ("DreamOReference", {"strength": 0.0}),
    ):
        prompt = copy.deepcopy(whole)
        for node in prompt.values():
            if node["class_type"] == kind:
                node["inputs"] |= changed
        difference = relative(sampled(demo_server, prompt), theirs)
        print(f"\n{kind} with {changed}: relative difference {difference:.3f}", end="")
        assert difference > 1000 * LIMIT
