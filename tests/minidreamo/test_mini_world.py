"""The trained mini world in the host computes what it computed in training."""

import nodes
import numpy as np
import pytest
import torch
from dreamo_routed.dreamo_core.checkpoint import load_dreamo_model
from dreamo_routed.dreamo_core.host.lora import with_loras
from dreamo_routed.dreamo_core.host.vae import encode_reference
from dreamo_routed.dreamo_core.pictures.picture import Picture
from dreamo_routed.dreamo_core.sequence.positions import grid_ids
from dreamo_routed.dreamo_core.sequence.reference import Reference
from dreamo_routed.dreamo_core.training import flow
from dreamo_routed.dreamo_core.training.encoders import T5Prompts, clip_ids, load_clip, load_t5
from dreamo_routed.dreamo_core.training.model import load_transformer
from dreamo_routed.minidreamo.host import mini_world
from dreamo_routed.nodes.apply import DreamOApply
from dreamo_routed.nodes.text import DreamOTextEncode
from PIL import Image
from training_world import COMFY
from transformers import CLIPTokenizerFast

from dreamo_core.training.config import load_config
from minidreamo.sampling import load_artist

WEIGHTS = mini_world.WEIGHTS
PROMPT = "a fox left of a teapot, on plain green"


@pytest.fixture(scope="module")
def conditioning():
    clip = mini_world.mini_text_encoders()
    return clip.encode_from_tokens(clip.tokenize(PROMPT), return_pooled=True)


def test_the_text_encoders_agree_with_transformers(conditioning):
    text, pooled = conditioning
    t5 = load_t5(WEIGHTS / "t5.safetensors")
    tokens = T5Prompts(COMFY / "text_encoders" / "t5_tokenizer", t5.config.vocab_size, mini_world.TEXT_TOKENS)(PROMPT)
    torch.testing.assert_close(text, t5(input_ids=torch.tensor([tokens.ids])).last_hidden_state, atol=1e-4, rtol=1e-4)
    ids = clip_ids(CLIPTokenizerFast.from_pretrained(COMFY / "sd1_tokenizer"), [PROMPT])
    expected = load_clip(WEIGHTS / "clip.safetensors")(input_ids=ids).pooler_output
    torch.testing.assert_close(pooled, expected, atol=1e-4, rtol=1e-4)


def test_the_transformer_agrees_with_diffusers(conditioning):
    text, pooled = conditioning
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, 16, 12, 12, generator=generator)
    ours = mini_world.mini_flux().model.diffusion_model(
        latent, torch.tensor([0.6]), text, pooled, guidance=torch.tensor([3.5])
    )
    theirs = load_transformer(WEIGHTS / "flux.safetensors")(
        hidden_states=flow.pack(latent), encoder_hidden_states=text, pooled_projections=pooled,
        timestep=torch.tensor([0.6]), guidance=torch.tensor([3.5]), img_ids=grid_ids((6, 6)),
        txt_ids=torch.zeros(text.shape[1], 3),
    ).sample  # fmt: skip
    torch.testing.assert_close(ours, flow.unpack(theirs, 12, 12), atol=1e-4, rtol=1e-4)


def test_the_autoencoder_gives_a_picture_back():
    """A drawing-like picture survives to 25 dB, and its latents have the spread FLUX.1's have."""
    y, x = np.mgrid[0:96, 0:96]
    picture = np.full((96, 96, 3), [0.3, 0.6, 0.4])
    picture[(x - 40) ** 2 + (y - 48) ** 2 < 500] = [0.9, 0.5, 0.2]
    pixels = torch.from_numpy(picture)[None].float()
    vae = mini_world.MiniVae()
    latent = vae.encode(pixels)
    assert latent.shape == (1, 16, 12, 12)
    back = vae.decode(latent)
    assert back.shape == pixels.shape
    assert -10 * torch.log10((back - pixels).square().mean()) > 25
    assert 0.2 < float(((latent - 0.1159) * 0.3611).std()) < 2


@pytest.fixture(scope="module")
def artist():
    return load_artist(load_config(WEIGHTS.parent / "configs" / "full.toml"), WEIGHTS / "dreamo.safetensors")


def pictures_of(*names):
    """Each (1, 48, 48, 3), 0 to 1; of subjects that the weights have never seen."""
    found = []
    for name in names:
        with Image.open(WEIGHTS.parent / "references" / f"{name}.png") as picture:
            found.append(torch.from_numpy(np.array(picture.convert("RGB")))[None].float() / 255)
    return found


def test_a_whole_graph_draws_what_the_trainers_own_sampler_draws(artist):
    """LoRA, tables, placeholders, two references, schedule and noise, through the nodes and without the host."""
    marked = "a pizza from [ref#1] left of a snowman from [ref#2], on plain purple"
    pictures = pictures_of("pizza-fluent", "snowman-noto")
    dreamo, vae = load_dreamo_model(WEIGHTS / "dreamo.safetensors"), mini_world.MiniVae()
    chain = tuple(Reference(Picture(p), encode_reference(vae, p), "subject") for p in pictures)
    (positive,) = DreamOTextEncode.execute(mini_world.mini_text_encoders(), dreamo, marked, 3.5, chain).args
    model, positive = DreamOApply.execute(
        with_loras(mini_world.mini_flux(), [(dreamo.lora, 1.0)]), positive, chain, dreamo
    ).args[:2]
    empty = {"samples": torch.zeros(1, 16, 12, 12)}
    (result,) = nodes.common_ksampler(model, 5, 4, 1.0, "euler", "simple", positive, positive, empty)

    references = [artist.encode(p.movedim(-1, 1) * 2 - 1) for p in pictures]
    expected, _ = artist.sample([marked], references, 5, steps=4)
    ours = (result["samples"] - 0.1159) * 0.3611
    torch.testing.assert_close(ours, expected, atol=2e-3, rtol=1e-3)
    without, _ = artist.sample([marked], references[::-1], 5, steps=4)
    assert (ours - without).abs().max() > 0.1


PAIRS = (
    ("pizza-fluent", "snowman-noto"),
    ("pig-noto", "guitar-flat"),
    ("sushi-noto", "stop-sign-flat"),
    ("pineapple-noto", "balloon-fluent"),
    ("tiger-face-twemoji", "ambulance-twemoji"),
)


def test_references_of_the_shipped_weights_stand_where_their_placeholders_do(artist):
    """The centres of two references' response maps, with the first named on the left, then on the right."""
    right = []
    for pair in PAIRS:
        references = [artist.encode(p.movedim(-1, 1) * 2 - 1) for p in pictures_of(*pair)]
        first, second = (f"a {name.rsplit('-', 1)[0].replace('-', ' ')}" for name in pair)
        one, two = f"{first} from [ref#1]", f"{second} from [ref#2]"
        for prompt, side in ((f"{one} left of {two}", -1), (f"{two} left of {one}", 1)):
            _, maps = artist.draw([f"{prompt}, on plain purple"], references, 1, 8)
            weights = maps[0].reshape(2, 6, 6).sum(1)
            at = (weights * torch.arange(6.0)).sum(-1) / weights.sum(-1)
            right.append((at[0] - at[1]) * side > 0)
    assert sum(right) >= 9, right
