"""The reference nodes: chains from folders, batches and the compact box, the style sentence, and what is made once."""

from pathlib import Path

import folder_paths
import numpy as np
import pytest
import torch
from dreamo_routed.dreamo_core.host import pictures as host_prepare
from dreamo_routed.dreamo_core.host.folders import input_folder, input_picture
from dreamo_routed.dreamo_core.pictures.cache import cached_picture, content_key
from dreamo_routed.dreamo_core.pictures.picture import Picture
from dreamo_routed.dreamo_core.text.style import STYLE_TRIGGER, has_style_trigger, with_style_trigger
from dreamo_routed.minidreamo.host.small_models import small_vae
from dreamo_routed.nodes.load_picture import DreamOLoadPicture
from dreamo_routed.nodes.reference import DreamOReference
from dreamo_routed.nodes.reference_sets import DreamOReferenceBatch, DreamOReferences
from dreamo_routed.nodes.style_prompt import DreamOStylePrompt
from PIL import Image


@pytest.fixture(scope="module")
def vae():
    return small_vae()


@pytest.fixture
def input_directory(tmp_path, monkeypatch):
    folder = tmp_path / "input"
    folder.mkdir()
    monkeypatch.setattr(folder_paths, "input_directory", str(folder))
    return folder


@pytest.fixture
def preparations(tmp_path, monkeypatch):
    """Counts what is really prepared, with a fresh cache."""
    counted = []
    prepare_picture = host_prepare.prepare_picture

    def counting(image, task, *rest):
        counted.append(task)
        return prepare_picture(image, task, *rest)

    monkeypatch.setattr(host_prepare, "prepare_picture", counting)
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    return counted


def picture(seed, height=64, width=64):
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))


def write_pictures(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.fromarray(np.full((64, 64, 3), 20 * i, np.uint8)).save(folder / name)


# --- batch ---


def batch(vae, folder="", images=None, references=(), task="style", resolution=64):
    return DreamOReferenceBatch.execute(vae, task, resolution, 0.7, folder, images, references=references)


def test_a_folder_and_a_batch_become_one_chain(vae, input_directory):
    write_pictures(input_directory / "shoes", "shoe2.png", "shoe10.png", "shoe1.webp")
    (input_directory / "shoes" / "notes.txt").write_text("no picture")
    first = batch(vae, images=picture(0)).result[0]
    chain, previews = batch(vae, "shoes", torch.cat([picture(1), picture(2)]), first).result
    assert len(chain) == 6 and len(previews) == 5
    assert [r.task for r in chain] == ["style"] * 6 and {r.strength for r in chain} == {0.7}
    greys = [round(float(p.mean()) * 255) for p in previews[:3]]
    assert greys == [40, 0, 20]  # shoe1, shoe2, shoe10
    assert torch.allclose(previews[3], picture(1)) and torch.allclose(previews[4], picture(2))
    for reference, preview in zip(chain[1:], previews, strict=True):
        assert torch.equal(vae.encode(preview), reference.latent)


@pytest.mark.parametrize("name", ["..", "../other", "shoes/../../other", "/etc", "shoes/../.."])
def test_folders_outside_the_input_folder_are_refused(vae, input_directory, name):
    write_pictures(input_directory.parent / "other", "a.png")
    write_pictures(input_directory / "shoes", "a.png")
    with pytest.raises(ValueError, match="lies outside"):
        batch(vae, name)
    with pytest.raises(ValueError, match="lies outside"):
        input_picture(f"{name}/a.png")
    assert input_folder("shoes/../shoes") == input_directory / "shoes"


def test_missing_empty_and_full_are_said(vae, input_directory):
    with pytest.raises(ValueError, match="no folder 'nowhere'"):
        batch(vae, "nowhere")
    (input_directory / "empty").mkdir()
    with pytest.raises(ValueError, match="folder 'empty' has none"):
        batch(vae, "empty")
    with pytest.raises(ValueError, match="no folder is named and no batch is connected"):
        batch(vae)
    chain = batch(vae, images=torch.rand(8, 32, 32, 3)).result[0]
    with pytest.raises(ValueError, match="at most 9 references, and these are 2 pictures after a chain of 8"):
        batch(vae, images=torch.rand(2, 32, 32, 3), references=chain)


def test_a_changed_folder_is_read_again(input_directory):
    write_pictures(input_directory / "shoes", "a.png")
    before = DreamOReferenceBatch.fingerprint_inputs(folder="shoes", task="style")
    assert before == DreamOReferenceBatch.fingerprint_inputs(folder="shoes", task="style")
    write_pictures(input_directory / "shoes", "a.png", "b.png")
    assert before != DreamOReferenceBatch.fingerprint_inputs(folder="shoes", task="style")


# --- compact ---


def compact(vae, **slots):
    defaults = {f"task_{i}": "style" for i in (1, 2, 3)} | {f"strength_{i}": 1.0 for i in (1, 2, 3)}
    return DreamOReferences.execute(vae, 64, **defaults | slots)


def test_the_compact_box_is_the_chain(vae):
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1
    chain, previews = compact(
        vae, image_1=picture(1), image_3=picture(3), mask_3=mask, task_3="subject", strength_3=0.5
    ).result
    assert len(previews) == 2
    one = DreamOReference.execute(picture(1), vae, "style", 64, 1.0, 0.0, 1.0).result[0]
    both = DreamOReference.execute(picture(3), vae, "subject", 64, 0.5, 0.0, 1.0, mask, one).result[0]
    for ours, theirs in zip(chain, both, strict=True):
        assert torch.equal(ours.latent, theirs.latent)
        assert (ours.task, ours.strength) == (theirs.task, theirs.strength)
    assert compact(vae).result[0] == ()


def test_previews_and_words_for_every_picture(vae):
    shown = compact(vae, image_1=picture(1), image_2=picture(2, 48, 96)).ui
    assert len(shown["images"]) == 2 and shown["text"] == ["1: kept whole", "2: kept whole"]
    temp = Path(folder_paths.get_temp_directory())
    sizes = [Image.open(temp / image["subfolder"] / image["filename"]).size for image in shown["images"]]
    assert sizes == [(64, 64), (80, 32)]


# --- cache ---


def test_nothing_is_prepared_twice(vae, preparations):
    compact(vae, image_1=picture(1), image_2=picture(2), image_3=picture(3))
    assert len(preparations) == 3
    compact(vae, image_1=picture(1), image_2=picture(2), image_3=picture(3), strength_1=0.3)
    assert len(preparations) == 3
    compact(vae, image_1=picture(1), image_2=picture(9), image_3=picture(3))
    assert len(preparations) == 4
    compact(vae, image_1=picture(1), task_1="subject", mask_1=torch.ones(1, 64, 64))
    assert preparations[4:] == ["subject"]
    compact(vae, image_1=picture(1), task_1="subject", mask_1=torch.ones(1, 64, 64) / 2)
    assert preparations[5:] == ["subject"]


def test_what_comes_from_the_cache_is_what_went_in(tmp_path):
    made = Picture(picture(1), torch.rand(1, 64, 64), "how it was made")
    for make in (lambda: made, None):
        found = cached_picture(tmp_path, "a", make)
        assert torch.equal(found.pixels, made.pixels) and torch.equal(found.keep, made.keep) and found.note == made.note
    assert cached_picture(tmp_path, "b", lambda: Picture(picture(1))).keep is None
    assert cached_picture(tmp_path, "b", None).keep is None


def test_the_cache_is_bounded_and_survives_damage(tmp_path):
    for i in range(20):
        cached_picture(tmp_path, f"{i:02}", lambda: Picture(torch.rand(1, 64, 64, 3)), limit_bytes=200_000)
    kept = sorted(path.stem for path in tmp_path.iterdir())
    assert kept == ["16", "17", "18", "19"]  # 49 kB each
    (tmp_path / "19.safetensors").write_bytes(b"damaged")
    assert cached_picture(tmp_path, "19", lambda: Picture(picture(7))).pixels.equal(picture(7))


def test_keys_tell_contents_apart():
    image = picture(1)
    keys = {
        content_key(image, None, "a"),
        content_key(image, None, "b"),
        content_key(image.reshape(1, 32, 128, 3), None, "a"),
        content_key(image + 1e-6, None, "a"),
        content_key(image, image[..., 0], "a"),
    }
    assert len(keys) == 5
    assert content_key(image.clone(), None, "a") in keys


# --- style, loading ---


def test_the_style_sentence_comes_once_and_in_front():
    assert with_style_trigger("a rooster") == f"{STYLE_TRIGGER} a rooster"
    assert with_style_trigger("") == STYLE_TRIGGER
    for prompt in (with_style_trigger("a rooster"), "Generate a same  style image, of a rooster"):
        assert has_style_trigger(prompt) and with_style_trigger(prompt) == prompt
    assert not has_style_trigger("a rooster. generate a same style image.")


def test_the_style_prompt_node_is_visible_and_can_be_turned_off(vae):
    style, subject = (batch(vae, images=picture(0), task=task).result[0] for task in ("style", "subject"))
    ask = lambda *arguments: DreamOStylePrompt.execute(*arguments).result[0]  # noqa: E731
    assert ask("a cat", True) == ask("a cat", True, subject + style) == f"{STYLE_TRIGGER} a cat"
    assert ask("a cat", False) == ask("a cat", True, subject) == "a cat"


def test_load_picture_keeps_transparency_and_gives_the_subject_as_white(input_directory):
    Image.new("RGBA", (8, 6), (255, 0, 0, 51)).save(input_directory / "a.png")
    image, mask = DreamOLoadPicture.execute("a.png").result
    assert image.shape == (1, 6, 8, 4) and torch.allclose(mask, torch.full((1, 6, 8), 0.2))
    assert DreamOLoadPicture.validate_inputs("a.png") is True
    assert "There is no picture 'b.png'" in DreamOLoadPicture.validate_inputs("b.png")
