"""Every mistake in a manifest is named with its line and field."""

import json

import pytest
import training_world
from dreamo_routed.dreamo_core.training.manifest import ManifestError, read_manifest


@pytest.fixture
def manifest(tmp_path):
    return training_world.write_data(tmp_path, 3)


def broken(manifest, change):
    lines = manifest.read_text().splitlines()
    entry = json.loads(lines[1])
    change(entry)
    lines[1] = json.dumps(entry)
    manifest.write_text("\n".join(lines))
    with pytest.raises(ManifestError) as error:
        read_manifest(manifest)
    return str(error.value)


def test_good_lines_are_read(manifest):
    samples = read_manifest(manifest)
    assert [s.task for s in samples] == ["subject", "pair", "subject"]
    assert samples[1].shape == ((32, 32), (16, 16), (16, 16))
    assert samples[0].references[0].mask is None and samples[1].references[1].mask.name == "1-1m.png"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda e: e.pop("target"), ["line 2", "'target'", "null"]),
        (lambda e: e.update(target="gone.png"), ["line 2", "'target'", "gone.png does not exist"]),
        (lambda e: e.update(prompt=3), ["line 2", "'prompt'", "3"]),
        (lambda e: e.update(prompt="a from [ref#3]"), ["line 2", "'prompt'", "[ref#3]", "2 references"]),
        (lambda e: e.update(references={}), ["line 2", "'references'"]),
        (lambda e: e["references"][1].update(image="no.png"), ["line 2", "'references[1].image'", "no.png"]),
        (lambda e: e["references"][1].update(mask="1-1.png"), ["line 2", "'references[1].mask'", "(32, 32)"]),
        (lambda e: e.update(colour="red"), ["line 2", "'colour'", "unknown"]),
    ],
)
def test_a_mistake_is_named(manifest, change, words):
    message = broken(manifest, change)
    assert all(word in message for word in words), message


def test_sizes_and_pictures_are_checked(manifest):
    training_world.save_picture(manifest.parent / "1.png", 40, 0)
    assert "mask" in broken(manifest, lambda e: None)
    assert "multiples of 16" in broken(manifest, lambda e: e.update(references=[], prompt="a square"))
    (manifest.parent / "1.png").write_text("not a picture")
    assert "'target'" in broken(manifest, lambda e: None)


def test_what_is_no_json_and_what_is_empty(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"target": \n')
    with pytest.raises(ManifestError, match="line 1, column"):
        read_manifest(path)
    path.write_text("\n\n")
    with pytest.raises(ManifestError, match="no samples"):
        read_manifest(path)
