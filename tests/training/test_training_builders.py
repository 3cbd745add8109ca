"""Every builder writes a manifest that the trainer reads, with the right pixels in it."""

import numpy as np
import pytest
from dreamo_routed.dreamo_core.training.builders import KINDS, build, columns, cut_out
from dreamo_routed.dreamo_core.training.manifest import read_manifest
from PIL import Image


def picture(path, width=96, height=64, seed=0, prompt="a thing on a table"):
    pixels = np.random.default_rng(seed).integers(0, 200, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    path.with_suffix(".txt").write_text(prompt)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source" / "one"
    folder.mkdir(parents=True)
    for n in range(3):
        picture(folder / f"{n}.png", seed=n)
        mask = np.zeros((64, 96), np.uint8)
        mask[16:48, 16:48] = 255
        Image.fromarray(mask).save(folder / f"{n}.mask.png")
    return folder.parent


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_built_can_be_trained_on(source, tmp_path, kind):
    assert build(kind, source, tmp_path / "out", 64) == 3
    samples = read_manifest(tmp_path / "out" / f"{kind}.jsonl")
    assert {s.task for s in samples} == {{"two-column": "subject", "garment": "try-on"}.get(kind, kind)}
    assert ("[ref#1]" in samples[0].prompt) == (kind != "style")
    assert (samples[0].references[0].mask is not None) == (kind in ("subject", "identity", "garment"))


def test_columns_and_cut_outs_are_the_right_pixels(source):
    whole = Image.open(source / "one" / "0.png")
    left, right = columns(whole)
    assert np.array_equal(np.concatenate([np.array(left), np.array(right)], 1), np.array(whole))
    piece = np.array(cut_out(whole, Image.open(source / "one" / "0.mask.png"), margin=1 / 16))
    assert piece.shape == (36, 36, 3)
    assert (piece[:2] == 255).all() and np.array_equal(piece[2:-2, 2:-2], np.array(whole)[16:48, 16:48])


def test_a_style_reference_is_another_picture(source, tmp_path):
    build("style", source, tmp_path / "out", 64)
    for sample in read_manifest(tmp_path / "out" / "style.jsonl"):
        target, reference = Image.open(sample.target), Image.open(sample.references[0].image)
        assert not np.array_equal(np.array(target), np.array(reference))


def test_what_cannot_be_used_is_named_and_left_out(source, tmp_path):
    (source / "one" / "1.txt").unlink()
    Image.new("L", (96, 64)).save(source / "one" / "2.mask.png")
    said = []
    assert build("subject", source, tmp_path / "out", 64, said.append) == 1
    assert "1.png has no prompt" in said[0] and "mask covers nothing" in said[1]
