"""From photographs to what the model sees: who cuts the subject out, which face is taken, and what is said of it."""

import json

import cv2
import numpy as np
import pytest
import torch
from dreamo_routed.dreamo_core.pictures import faces
from dreamo_routed.dreamo_core.pictures.background import cut_out
from dreamo_routed.dreamo_core.pictures.face_crop import BUILT_IN, FaceModels
from dreamo_routed.dreamo_core.pictures.load import load_picture
from dreamo_routed.dreamo_core.pictures.prepare import Preparation, prepare_picture
from skimage import data
from support import REPO

PHOTOS = REPO / "tests" / "data" / "photos"
OUTLINES = json.loads((REPO / "benchmarks" / "data" / "subject_outlines.json").read_text())


def as_image(picture):
    return torch.from_numpy(picture).float().div(255).unsqueeze(0)


def photograph(name):
    """A photograph as IMAGE (1, h, w, 3)."""
    return load_picture(PHOTOS / f"{name}.webp")


def outline(name, shape):
    """The subject as drawn by hand, (h, w) bool."""
    points = [[int(v) for v in point.split(",")] for point in OUTLINES[name].split()]
    return cv2.fillPoly(np.zeros(shape[:2], np.uint8), [np.array(points)], 1) > 0


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def prepared(image, task="subject", mask=None, resolution=512, **how):
    return prepare_picture(image, task, resolution, mask, Preparation(**how))


# --- background ---


@pytest.mark.parametrize(
    ("name", "picture", "how", "least"),
    [("coffee.png", data.coffee, "GrabCut", 0.9), ("astronaut.png", data.astronaut, "the person network", 0.9)],
)
def test_the_subject_of_a_photograph_is_found(name, picture, how, least):
    picture = picture()
    cutout = cut_out(picture)
    assert how in cutout.note
    assert iou(cutout.keep > 0.5, outline(name, picture.shape)) > least


def test_background_is_white_and_the_subject_as_it_was():
    picture = prepared(as_image(data.coffee()))
    kept = prepared(as_image(data.coffee()), background="keep")
    assert picture.pixels.shape == kept.pixels.shape == (1, 416, 624, 3)
    assert (picture.pixels[picture.keep == 0] == 1).all()
    assert torch.equal(picture.pixels[picture.keep == 1], kept.pixels[picture.keep == 1])
    assert 0.3 < picture.keep.mean() < 0.7
    assert kept.keep is None and "background kept" in kept.note


def test_the_same_picture_gives_the_same_bits():
    first, second = (prepared(as_image(data.coffee())) for _ in range(2))
    assert torch.equal(first.pixels, second.pixels) and torch.equal(first.keep, second.keep)


def test_mask_then_alpha_then_remover():
    image = torch.rand(1, 64, 64, 4)
    image[..., 3] = 0
    image[:, :, :32, 3] = 1
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 1
    by_mask = prepared(image, mask=mask, resolution=64)
    assert torch.equal(by_mask.keep, mask) and "mask" in by_mask.note
    by_alpha = prepared(image, resolution=64)
    assert torch.equal(by_alpha.keep, image[..., 3]) and "alpha" in by_alpha.note
    assert "GrabCut" in prepared(as_image(data.coffee())).note


def test_an_empty_mask_counts_as_none_and_is_mentioned():
    """Load Image gives 64 × 64 zeros for a picture without transparency."""
    picture = prepared(as_image(data.coffee()), mask=torch.zeros(1, 64, 64))
    assert "mask is empty" in picture.note and "GrabCut" in picture.note
    assert torch.equal(picture.pixels, prepared(as_image(data.coffee())).pixels)


@pytest.mark.parametrize(
    "image",
    [torch.full((1, 300, 200, 3), 0.5), torch.zeros(1, 1, 1, 3), torch.rand(1, 3, 400, 1), torch.rand(1, 8, 8, 3)],
)
def test_where_nothing_can_be_told_apart_the_picture_stays(image):
    picture = prepared(image)
    assert picture.keep is None and "background kept" in picture.note
    assert picture.pixels.shape[1] % 16 == 0 and picture.pixels.shape[2] % 16 == 0


def test_a_garment_is_cut_out_of_a_region_on_a_person():
    """The orange suit inside a rough box around the torso, without helmet ring and background."""
    picture = data.astronaut()
    region = torch.zeros(1, 512, 512)
    region[:, 230:512, 10:365] = 1
    worn = prepared(as_image(picture), "try-on", mask=region, mask_use="region")
    assert "region" in worn.note
    hue, saturation, value = np.moveaxis(cv2.cvtColor(picture, cv2.COLOR_RGB2HSV), 2, 0)
    orange = (hue < 15) & (saturation > 150) & (value > 90) & (region[0].numpy() > 0)
    keep = worn.keep[0].numpy() > 0.5
    assert keep[orange].mean() > 0.9
    assert keep[~(region[0].numpy() > 0)].mean() < 0.02
    plain = prepared(as_image(picture), "try-on", mask=region)
    assert keep.mean() < (plain.keep > 0.5).float().mean()


def test_style_is_kept_whole_whatever_is_connected():
    image = as_image(data.coffee())
    picture = prepared(image, "style", mask=torch.rand(1, 20, 20))
    assert picture.keep is None
    assert torch.equal(picture.pixels, prepared(image, background="keep").pixels)


# --- identity ---


def assert_aligned(picture, tolerance=4.0):
    """A face is in the middle of the crop, upright, its eyes where the template has them."""
    crop = picture[0].mul(255).byte().numpy() if isinstance(picture, torch.Tensor) else picture
    assert crop.shape == (512, 512, 3)
    found = faces.find_faces(crop)
    assert found
    eyes = found[0].points[:2].mean(0) - faces.FFHQ_TEMPLATE[:2].mean(0)
    assert np.abs(eyes).max() < tolerance


@pytest.mark.parametrize(
    "image",
    [
        lambda: as_image(data.astronaut()),
        *[lambda n=n: photograph(n) for n in ("glasses", "turned", "standing", "smiling")],
    ],
    ids=["astronaut", "glasses", "turned", "standing", "smiling"],
)
def test_identity_is_the_aligned_face_on_white(image):
    picture = prepared(image(), "identity", resolution=768)
    assert picture.pixels.shape == (1, 512, 512, 3) and picture.keep.shape == (1, 512, 512)
    assert_aligned(prepared(image(), "identity", background="keep").pixels, tolerance=12)
    assert (picture.pixels[picture.keep == 0] == 1).all()
    # Face and hair, not shoulders: the corners are white, the middle of the face is not.
    keep = picture.keep[0]
    assert keep[-40:, :100].max() == 0 and keep[-40:, -100:].max() == 0
    assert keep[200:400, 210:300].min() == 1
    assert 0.15 < keep.mean() < 0.6


@pytest.mark.parametrize("name", ["glasses", "standing", "smiling"])
def test_landmarks_of_the_crop_are_where_the_map_puts_them(name):
    """Found afresh in the aligned crop, the landmarks lie within 3 px (median) of where the alignment says they are."""
    picture = photograph(name)[0].mul(255).byte().numpy()
    face = faces.find_faces(picture)[0]
    crop, affine = faces.align(picture, face.points)
    afresh = faces.find_faces(crop)[0].points
    assert np.median(np.linalg.norm(afresh - faces.transform(face.points, affine), axis=1)) < 3


def test_alignment_is_a_least_squares_similarity_on_the_template():
    """Points that are the template turned, scaled and moved are taken back onto it exactly."""
    angle, scale = np.radians(33), 0.37
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = faces.FFHQ_TEMPLATE @ turn.T + (40, 25)
    _, affine = faces.align(np.zeros((300, 300, 3), np.uint8), points)
    assert np.abs(faces.transform(points, affine) - faces.FFHQ_TEMPLATE).max() < 1e-3


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_photo_that_lies_on_its_side_is_turned(turns):
    image = torch.rot90(photograph("glasses"), turns, dims=(1, 2))
    picture = prepared(image, "identity")
    assert f"turned by {90 * (4 - turns)}°" in picture.note
    upright = prepared(photograph("glasses"), "identity")
    assert (picture.pixels - upright.pixels).abs().mean() < 0.05


def group():
    """A picture of three people: large, middle and small, side by side."""
    pictures = [cv2.resize(photograph(n)[0].mul(255).byte().numpy(), s) for n, s in
                [("standing", (176, 400)), ("glasses", (341, 400)), ("turned", (209, 400))]]  # fmt: skip
    return as_image(np.hstack(pictures))


def test_the_largest_of_several_faces_or_the_one_by_number():
    found = faces.find_faces(group()[0].mul(255).byte().numpy())
    assert len(found) == 3
    assert [face.size for face in found] == sorted((face.size for face in found), reverse=True)
    middles = [face.points.mean(0)[0] for face in found]
    assert 176 < middles[0] < 176 + 341  # glasses is the largest
    first, second = (prepared(group(), "identity", face=n) for n in (1, 2))
    assert "face 1 of 3" in first.note and "face 2 of 3" in second.note
    assert (first.pixels - second.pixels).abs().mean() > 0.05
    with pytest.raises(ValueError, match="Face 4 was asked for, but 3 were found"):
        prepared(group(), "identity", face=4)


def test_the_face_nearest_the_middle_as_released():
    """facexlib's `only_center_face`: the box whose middle is nearest to that of the picture."""
    # The largest face at the left, a small one in the middle.
    wide = np.hstack([group()[0, :, 176 : 176 + 341], np.full((400, 150, 3), 0.8), group()[0, :, :176]])
    wide = np.hstack([wide, np.full((400, 400, 3), 0.8)]).astype(np.float32)
    picture = torch.from_numpy(wide)[None]
    by_size, by_centre, as_before = (prepared(picture, "identity", face_order=o) for o in ("size", "centre", None))
    assert "face 1 of 2" in by_centre.note
    assert (by_size.pixels - by_centre.pixels).abs().mean() > 0.05
    # No border is in sight of these faces, so that the older way differs in nothing but the order.
    assert torch.equal(as_before.pixels, by_size.pixels)
    assert torch.equal(prepared(picture, "identity", face=2, face_order="centre").pixels, by_size.pixels)
    with pytest.raises(ValueError, match=r"Face 3 was asked for, but 2 .*\(1 is nearest the middle\)"):
        prepared(picture, "identity", face=3, face_order="centre")


def test_what_lies_outside_the_picture_is_grey_while_a_face_is_cut_out():
    """facexlib's `align_warp_face`; the mask then decides what of it stays."""
    picture = photograph("smiling")[0].mul(255).byte().numpy()
    face = faces.find_faces(picture)[0]
    left = int(face.points[:, 0].min()) - 10
    cut = np.ascontiguousarray(picture[:, left:])
    points = face.points - (left, 0)
    crop, affine = faces.align(cut, points, border=faces.GREY)
    theirs = cv2.warpAffine(
        cv2.cvtColor(cut, cv2.COLOR_RGB2BGR), affine, (512, 512), borderMode=cv2.BORDER_CONSTANT,
        borderValue=(135, 133, 132),
    )  # fmt: skip
    assert (crop == cv2.cvtColor(theirs, cv2.COLOR_BGR2RGB)).all() and (crop[256, 0] == faces.GREY).all()
    image = as_image(cut)
    released, before = (prepared(image, "identity", face_order=order) for order in ("centre", None))
    outside = np.all(crop == faces.GREY, axis=2)
    assert outside.mean() > 0.1
    for picture in (released, before):
        # White in the end, either way: grey is nobody's face.
        assert picture.pixels[0][torch.from_numpy(outside)].mean() > 0.97


def test_a_mask_says_which_faces_count():
    mask = torch.zeros(1, 400, 726)
    mask[..., :176] = 1
    assert "face 1 of 1" in prepared(group(), "identity", mask).note


def test_a_tiny_face_in_a_large_picture_is_found():
    """A face about 24 pixels wide in a 1000 pixel picture."""
    small = cv2.resize(data.astronaut(), (128, 128), interpolation=cv2.INTER_AREA)
    scene = np.full((800, 1000, 3), 90, np.uint8)
    scene[500:628, 700:828] = small
    picture = prepared(as_image(scene), "identity")
    assert "face 1 of 1" in picture.note


@pytest.mark.parametrize("picture", [data.coffee, data.cat])
def test_without_a_face_it_is_said_and_a_subject_is_made(picture):
    image = as_image(picture())
    identity, subject = prepared(image, "identity"), prepared(image)
    assert "no face was found, prepared as a subject" in identity.note
    assert torch.equal(identity.pixels, subject.pixels)


def test_other_face_models_are_asked_instead():
    asked = []

    def find(picture):
        asked.append(picture.shape)
        return BUILT_IN.find(picture)

    other = FaceModels(find, lambda crop, face, affine: np.ones((512, 512), np.float32), "another")
    picture = prepared(as_image(np.tile(data.astronaut(), (4, 4, 1))), "identity", face_models=other)
    assert asked == [(1024, 1024, 3)]  # the long edge is limited first
    assert "found by another" in picture.note and (picture.keep == 1).all()


# --- size ---


def peak_megabytes(make):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = make()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, result


@pytest.mark.long
def test_a_12000_pixel_picture_takes_little_more_memory_than_itself():
    image = torch.zeros(1, 12000, 12000, 3)
    image[:, 3000:9000, 3000:9000, 0] = 1
    size = image.numel() * 4 / 2**20
    megabytes, picture = peak_megabytes(lambda: prepared(image, "identity"))  # no face: all ways are gone
    print(f"\n{megabytes:.0f} MB more than the picture's own {size:.0f} MB", end="")
    assert picture.pixels.shape == (1, 512, 512, 3)
    assert megabytes < 0.8 * size
