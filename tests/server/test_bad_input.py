"""What can go wrong in a graph gives one clear error at the node, or a defined result."""

from types import SimpleNamespace

import comfy.model_base
import comfy.supported_models
import pytest
import torch
from dreamo_routed.dreamo_core.checkpoint import load_dreamo_model
from dreamo_routed.dreamo_core.pictures.pixels import area_resize, reference_size
from dreamo_routed.dreamo_core.pictures.prepare import prepare_picture
from dreamo_routed.minidreamo.host import small_models
from dreamo_routed.nodes.reference import DreamOReference
from other_models import small_chroma, small_unet
from safetensors.torch import save_file
from support import apply_dreamo, make_chain, make_conditioning, make_model, make_reference, sample, small_flux


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda: small_unet(comfy.supported_models.SD15), "SD 1.5"),
        (lambda: small_unet(comfy.supported_models.SDXL, num_classes="sequential", adm_in_channels=32), "SDXL"),
        (small_chroma, "Chroma"),
        (small_models.small_flux2, "FLUX.2"),
    ],
    ids=["SD1.5", "SDXL", "Chroma", "Flux.2"],
)
def test_other_models_are_refused_by_name(make, name):
    model, positive = make(), make_conditioning()
    with pytest.raises(ValueError, match=f"need a FLUX.1 model, got {name}; load flux1-dev with Load Diffusion Model"):
        apply_dreamo(model, positive, make_chain(1))
    assert not model.wrappers and "reference_latents" not in positive[0][1]


def test_flux_fill_is_refused():
    with pytest.raises(ValueError, match="16 input channels, got 96; this is a Fill or control variant"):
        apply_dreamo(small_flux(in_channels=96), make_conditioning(), make_chain(1))


def test_embeddings_of_another_width_are_refused():
    with pytest.raises(ValueError, match="embeddings are 3072 wide but the model's hidden size is 128"):
        apply_dreamo(small_flux(), make_conditioning(), make_chain(1), make_model(hidden=3072))


def tables(**changes):
    released = {
        "dreamo_task_embedding.weight": torch.randn(2, 128),
        "dreamo_idx_embedding.weight": torch.randn(10, 128),
        "dreamo_t5_embedding.weight": torch.randn(12, 64),
    }
    released.update({f"dreamo_{key}_embedding.weight": value for key, value in changes.items()})
    return {key: value for key, value in released.items() if value is not None}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"task": None}, "has no dreamo_task_embedding.weight"),
        ({"task": None, "idx": None}, "has no dreamo_task_embedding.weight and no dreamo_idx_embedding.weight"),
        ({"task": torch.randn(3, 128)}, r"has shape \(3, 128\), expected \(2, hidden size\)"),
        ({"idx": torch.randn(10, 64)}, r"has shape \(10, 64\), expected \(10, 128\)"),
        ({"t5": torch.randn(4, 64)}, "expected at least 10 rows"),
        ({"idx": torch.full((10, 128), float("nan"))}, "NaN or infinite"),
    ],
)
def test_bad_embeddings(tmp_path, changes, message):
    save_file(tables(**changes), tmp_path / "dreamo.safetensors")
    with pytest.raises(ValueError, match=message):
        load_dreamo_model(tmp_path / "dreamo.safetensors")


def test_good_embeddings(tmp_path):
    released = tables()
    save_file(released, tmp_path / "dreamo.safetensors")
    embeddings = load_dreamo_model(tmp_path / "dreamo.safetensors").embeddings
    assert torch.equal(embeddings.task, released["dreamo_task_embedding.weight"])
    assert torch.equal(embeddings.index, released["dreamo_idx_embedding.weight"])
    assert torch.equal(embeddings.placeholders, released["dreamo_t5_embedding.weight"][-10:])
    save_file(tables(t5=None), tmp_path / "embedding.safetensors")
    assert load_dreamo_model(tmp_path / "embedding.safetensors").embeddings.placeholders is None


@pytest.fixture(scope="module")
def vae():
    return small_models.small_vae()


def reference(vae, image, **inputs):
    defaults = {"task": "subject", "resolution": 64, "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    return DreamOReference.execute(image, vae, **{**defaults, **inputs}).result


@pytest.mark.parametrize(
    "image, message",
    [
        (torch.rand(1, 0, 8, 3), "has no pixels: its size is 8 × 0"),
        (torch.rand(2, 8, 8, 3), "One reference is one picture, got a batch of 2"),
        (torch.rand(1, 8, 8, 2), "must have 1, 3 or 4 channels, got 2"),
        (torch.rand(8, 8, 3), r"of shape \(1, height, width, channels\)"),
        (torch.full((1, 8, 8, 3), float("nan")), "NaN or infinite"),
        (torch.full((1, 8, 8, 3), float("inf")), "NaN or infinite"),
    ],
)
def test_bad_pictures(vae, image, message):
    with pytest.raises(ValueError, match=message):
        reference(vae, image)


@pytest.mark.parametrize(
    "mask, message",
    [
        (torch.ones(2, 8, 8), "must be one MASK"),
        (torch.full((1, 8, 8), float("nan")), "NaN or infinite"),
        (torch.ones(1, 0, 8), "must be one MASK"),
    ],
)
def test_bad_masks(vae, mask, message):
    with pytest.raises(ValueError, match=message):
        reference(vae, torch.rand(1, 32, 32, 3), mask=mask)


def test_wrong_vae():
    wrong = SimpleNamespace(encode=lambda pixels: torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="needs the FLUX.1 VAE with 16 channels; load ae.safetensors"):
        reference(wrong, torch.rand(1, 32, 32, 3))
    broken = SimpleNamespace(encode=lambda pixels: torch.full((1, 16, 8, 8), float("nan")))
    with pytest.raises(ValueError, match="NaN or infinite"):
        reference(broken, torch.rand(1, 32, 32, 3))


def test_a_chain_has_at_most_nine(vae):
    with pytest.raises(ValueError, match="at most 9 references and the chain already has 9"):
        reference(vae, torch.rand(1, 32, 32, 3), references=make_chain(9))


def test_upside_down_range(vae):
    with pytest.raises(ValueError, match="must not be above end_percent"):
        reference(vae, torch.rand(1, 32, 32, 3), start_percent=0.8, end_percent=0.2)


def test_zero_references_is_the_plain_graph():
    flux, positive = small_flux(), make_conditioning()
    patched, same = apply_dreamo(flux, positive, ())
    assert same is positive
    assert torch.equal(sample(patched, same), sample(flux, positive))


def test_empty_conditioning_stays_empty():
    assert apply_dreamo(small_flux(), [], make_chain(1))[1] == []


def test_alpha_serves_as_mask_and_a_mask_wins():
    image = torch.rand(1, 32, 32, 4)
    image[..., 3] = 0
    image[:, 8:24, 8:24, 3] = 1
    picture = prepare_picture(image, "subject", 32)
    assert torch.equal(picture.pixels[:, 8:24, 8:24], image[:, 8:24, 8:24, :3])
    assert (picture.pixels[:, :8] == 1).all() and (picture.keep[:, :8] == 0).all()
    other = prepare_picture(image, "subject", 32, torch.ones(1, 5, 5))
    assert torch.allclose(other.pixels, image[..., :3]) and (other.keep == 1).all()


def test_style_is_kept_whole():
    image, mask = torch.rand(1, 32, 32, 3), torch.zeros(1, 32, 32)
    picture = prepare_picture(image, "style", 32, mask)
    assert torch.equal(picture.pixels, image) and picture.keep is None
    assert (prepare_picture(image, "subject", 32, mask).pixels == 1).all()


def test_grey_becomes_rgb():
    assert prepare_picture(torch.rand(1, 32, 32, 1), "subject", 32).pixels.shape == (1, 32, 32, 3)


def test_preview_is_exactly_what_the_model_sees(vae):
    """The picture of the preview output, encoded, is the latent that travels."""
    references, preview = reference(vae, torch.rand(1, 50, 90, 3), mask=torch.rand(1, 20, 20))
    assert torch.equal(vae.encode(preview), references[0].latent)
    assert preview.shape[1] % 16 == 0 and preview.shape[2] % 16 == 0 and 0 <= preview.min() and preview.max() <= 1


@pytest.mark.parametrize("size", [(512, 512), (300, 777), (1, 1), (3, 4000), (1023, 64)])
@pytest.mark.parametrize("resolution", [64, 512, 768])
def test_reference_size(size, resolution):
    height, width = reference_size(*size, resolution)
    assert height % 16 == width % 16 == 0 and min(height, width) >= 16
    scale = (resolution**2 / (size[0] * size[1])) ** 0.5
    for side, new in zip(size, (height, width), strict=True):
        # A side that had to become 16 leaves the other one what is left of the area.
        theirs = int(side * scale) - int(side * scale) % 16
        assert new == min(max(16, theirs), resolution**2 // 16)


@pytest.mark.parametrize(
    "size, target", [((40, 60), (16, 32)), ((33, 47), (16, 16)), ((5, 7), (16, 32)), ((64, 64), (32, 32))]
)
def test_area_resize_averages_boxes(size, target):
    """Against loops over every source pixel's share in every target pixel."""
    image = torch.rand(1, *size, 3, dtype=torch.float64)
    ours = area_resize(image, *target)
    shares = lambda n, m, i: [max(0, min((i + 1) * n / m, s + 1) - max(i * n / m, s)) for s in range(n)]  # noqa: E731
    for i in range(target[0]):
        rows = torch.tensor(shares(size[0], target[0], i), dtype=torch.float64)
        for j in range(target[1]):
            columns = torch.tensor(shares(size[1], target[1], j), dtype=torch.float64)
            weights = rows[:, None] * columns[None, :]
            mean = (image[0] * weights[..., None]).sum((0, 1)) / weights.sum()
            assert (ours[0, i, j] - mean).abs().max() < 1e-5


def test_apply_again_on_a_longer_chain_shares_nothing():
    """A chain is a value: extending it leaves the shorter one as it was."""
    short = make_chain(1)
    from dreamo_routed.dreamo_core.sequence.reference import extend

    longer = extend(short, make_reference(4, 4, 3))
    assert len(short) == 1 and len(longer) == 2 and longer[0] is short[0]
