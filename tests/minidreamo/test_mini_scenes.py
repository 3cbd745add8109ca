"""The mini world's pictures, masks, prompts and scores, on made-up drawings."""

import numpy as np
import pytest
import torch

from minidreamo import art, build_data, scenes, score


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    names = [f"thing {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    cutouts = rng.integers(0, 256, (26, 5, art.SIZE, art.SIZE, 4), np.uint8)
    cutouts[..., 3] = 255
    cutouts[:, :, :8, :, 3] = 0
    trained = np.ones((26, 5), bool)
    trained[20:] = False
    trained[3, 2] = False
    return art.Art(names, cutouts, trained)


def pool(world):
    return np.argwhere(world.trained)


def test_a_seed_always_gives_the_same_picture(world):
    one, two = (scenes.random_scene(world, np.random.default_rng(4), pool(world), 2) for _ in range(2))
    assert one == two
    assert all(np.array_equal(a, b) for a, b in zip(scenes.draw(world, one), scenes.draw(world, two), strict=True))


def test_only_drawings_of_the_pool_appear(world):
    allowed = {tuple(pair) for pair in pool(world)}
    rng = np.random.default_rng(0)
    seen = {(s.name, s.vendor) for _ in range(300) for s in scenes.random_scene(world, rng, pool(world), 3).subjects}
    assert seen <= allowed and len(seen) > 80
    assert [n for n in range(len(world.names)) if not world.trained[n].any()] == list(range(20, 26))


def test_masks_are_where_the_subjects_are_and_begin_at_a_tokens_edge(world):
    rng = np.random.default_rng(1)
    for count in (1, 2, 3):
        scene = scenes.random_scene(world, rng, pool(world), count)
        picture, masks = scenes.draw(world, scene)
        empty, _ = scenes.draw(world, scenes.Scene((), scene.colour, scene.ground, "", scene.seed, ()))
        changed = np.abs(picture.astype(int) - empty).max(-1) > 8
        assert not (changed & ~(masks > 0).any(0)).any()
        for subject, mask in zip(scene.subjects, masks, strict=True):
            corner = [c - scenes.REFERENCE_SIDE // 2 for c in subject.centre]
            assert all(c % 8 == 0 and 0 <= c <= 48 for c in corner)
            assert mask[: corner[1]].max(initial=0) == 0 and mask[:, : corner[0]].max(initial=0) == 0


def test_prompts_name_subjects_places_and_placeholders(world):
    scene = scenes.random_scene(world, np.random.default_rng(2), pool(world), 2, styled=0)
    marked = scene.text(placeholders=True)
    for number, subject in enumerate(scene.references, start=1):
        assert f"a {world.names[subject.name]} from [ref#{number}]" in marked
    assert marked.replace(" from [ref#1]", "").replace(" from [ref#2]", "") == scene.text()
    assert marked.endswith(f", on {scene.ground} {scene.colour}")


def test_the_order_of_references_is_not_that_of_the_prompt(world):
    rng = np.random.default_rng(6)
    drawn = [scenes.random_scene(world, rng, pool(world), 2).numbers for _ in range(100)]
    assert 30 < drawn.count((1, 0)) < 70


def test_twins_are_one_drawing_twice_and_variations_stay_that_drawing(world):
    rng = np.random.default_rng(7)
    scene = scenes.random_scene(world, rng, pool(world), 2, styled=0, twins=True, mirrored=1, recoloured=1)
    first, second = scene.subjects
    assert (first.name, first.vendor, first.channels) == (second.name, second.vendor, second.channels)
    assert f"the same {world.names[first.name]}" in scene.text()
    plain = scenes.cutout(world, scenes.Subject(first.name, first.vendor), 48)
    varied = scenes.cutout(world, first, 48)[:, ::-1]
    assert np.allclose(varied[..., :3], plain[..., list(first.channels)]) and np.allclose(varied[..., 3], plain[..., 3])


def test_a_style_reference_has_the_vendor_and_another_subject(world):
    scene, reference = build_data.style_sample(world, np.random.default_rng(3), scenes.common_pool(world), pool(world))
    assert reference.vendor == scene.subjects[0].vendor and reference.name != scene.subjects[0].name
    assert scene.prompt.startswith(build_data.STYLE_START)


def test_scores_tell_a_copy_from_another_and_a_right_map_from_a_wrong_one(world):
    scene = scenes.random_scene(world, np.random.default_rng(5), np.argwhere(~world.trained), 1)
    picture, masks = scenes.draw(world, scene)
    subject = scene.subjects[0]
    part = scenes.window(picture, subject, scenes.SUBJECT_SIDE)
    own = score.likeness(part, scenes.cutout(world, subject, scenes.SUBJECT_SIDE))
    other = score.likeness(part, scenes.cutout(world, scenes.Subject(1, 1), scenes.SUBJECT_SIDE))
    assert own > 0.99 and abs(other) < 0.2
    (mask,) = score.token_masks(masks)
    assert score.iou(mask, mask) == 1 and score.iou(-mask, mask) < 0.3


def test_scoring_scenes_hold_unseen_subjects_only(world):
    for task in score.tasks(world, 2, 20):
        assert all(s.name >= 20 for s in task.scene.subjects)
    assert torch.is_tensor(scenes.to_pixels(np.zeros((1, 8, 8, 3), np.uint8)))
