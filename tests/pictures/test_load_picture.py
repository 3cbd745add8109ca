"""Files as people have them, against values worked out from what was written into them."""

import io
import struct

import numpy as np
import pytest
import torch
from dreamo_routed.dreamo_core.pictures.load import LONGEST_EDGE, load_picture, pictures_in
from PIL import Image, ImageCms
from skimage import data

STEP = 1 / 255


def saved(tmp_path, picture, name="picture.png", **options):
    picture.save(tmp_path / name, **options)
    return load_picture(tmp_path / name)


def test_plain_rgb_is_as_it_is(tmp_path):
    values = data.coffee()
    picture = saved(tmp_path, Image.fromarray(values))
    assert picture.shape == (1, *values.shape) and picture.dtype == torch.float32
    assert np.array_equal(picture[0].numpy(), values.astype(np.float32) / 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_phone_orientation(tmp_path, orientation):
    upright = data.coffee()[:64, :48]
    # How the sensor saw it: the inverse of what the tag asks for (EXIF 2.3, 4.6.4).
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1), 7: np.rot90(upright, 2).transpose(1, 0, 2), 8: np.rot90(upright, 3),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = saved(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(picture[0].numpy(), upright.astype(np.float32) / 255)


ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
"""Adobe RGB (1998) primaries, adapted to D50: linear RGB to XYZ."""
ADOBE_GAMMA = 563 / 256


def adobe_profile():
    """A small ICC 2.1 matrix profile of Adobe RGB."""

    def fixed(*values):
        return struct.pack(f">{len(values)}i", *(round(v * 65536) for v in values))

    xyz = lambda column: b"XYZ \0\0\0\0" + fixed(*column)  # noqa: E731
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(ADOBE_GAMMA * 256)) + b"\0\0"
    text = b"text\0\0\0\0test\0\0\0\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78) + b"\0"
    tags = {b"cprt": text, b"desc": description, b"wtpt": xyz((0.9642, 1.0, 0.8249))}
    tags |= {b"rXYZ": xyz(ADOBE[:, 0]), b"gXYZ": xyz(ADOBE[:, 1]), b"bXYZ": xyz(ADOBE[:, 2])}
    tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"\0\0\0\0", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + table + body


BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D50, D65 = np.array([0.9642, 1.0, 0.8249]), np.array([0.95047, 1.0, 1.08883])
SRGB = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])
"""Linear sRGB to XYZ (D65), IEC 61966-2-1."""


def test_colour_profile_is_applied(tmp_path):
    """Adobe RGB to sRGB by their definitions: gamma, matrix to XYZ, Bradford from D50 to D65, matrix, sRGB's curve."""
    values = np.random.default_rng(0).integers(60, 190, (40, 50, 3), dtype=np.uint8)
    picture = saved(tmp_path, Image.fromarray(values), icc_profile=adobe_profile())[0].numpy()
    to_d65 = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D65) / (BRADFORD @ D50)) @ BRADFORD
    linear = ((values / 255) ** ADOBE_GAMMA @ ADOBE.T @ to_d65.T @ np.linalg.inv(SRGB).T).clip(0, 1)
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(picture - values / 255).max() > 10 * STEP  # it matters
    assert np.abs(picture - expected).max() <= STEP


def test_a_broken_colour_profile_is_a_warning(tmp_path):
    values = data.coffee()[:20, :20]
    Image.fromarray(values).save(tmp_path / "a.png", icc_profile=b"no profile" * 30)
    with pytest.warns(UserWarning, match="colour profile not applied"):
        picture = load_picture(tmp_path / "a.png")
    assert np.array_equal(picture[0].numpy(), values.astype(np.float32) / 255)


def test_lab_tiff_and_cmyk_become_srgb(tmp_path):
    lab = ImageCms.profileToProfile(
        Image.fromarray(data.coffee()), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    picture = saved(tmp_path, lab, "a.tif", icc_profile=profile)[0].numpy()
    assert np.abs(picture - data.coffee() / 255).mean() < 2 * STEP

    cmyk = np.zeros((8, 8, 4), np.uint8)
    cmyk[:4, :, 0] = 255  # cyan, and paper
    picture = saved(tmp_path, Image.fromarray(cmyk, "CMYK"), "a.jpg", quality=100)[0]
    assert torch.allclose(picture[0, 0], torch.tensor([0.0, 1.0, 1.0]), atol=0.03)
    assert torch.allclose(picture[-1, -1], torch.ones(3), atol=0.03)


def test_sixteen_bits(tmp_path):
    deep = np.linspace(0, 65535, 64 * 32).reshape(32, 64).astype(np.uint16)
    picture = saved(tmp_path, Image.fromarray(deep))
    assert np.allclose(picture[0, :, :, 1].numpy(), deep / 65535, atol=1e-6)
    assert saved(tmp_path, Image.fromarray((deep / 65535).astype(np.float32)), "a.tif").max() == 1.0


def test_grey_palette_and_transparency(tmp_path):
    grey = data.camera()[:30, :40]
    picture = saved(tmp_path, Image.fromarray(grey))
    assert picture.shape == (1, 30, 40, 3) and np.array_equal(
        picture[0, :, :, 2].numpy(), grey.astype(np.float32) / 255
    )

    rgba = np.random.default_rng(0).integers(0, 255, (9, 7, 4), dtype=np.uint8)
    assert np.array_equal(saved(tmp_path, Image.fromarray(rgba))[0].numpy(), rgba.astype(np.float32) / 255)
    rgba[..., 3] = 255
    assert saved(tmp_path, Image.fromarray(rgba)).shape == (1, 9, 7, 3)

    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 0)
    picture = saved(tmp_path, palette, "a.gif", transparency=0)
    assert picture.shape[3] == 4
    assert picture[0, 0, 0, 3] == 0 and picture[0, 1, 1].tolist() == [0, 0, 1, 1]
    assert saved(tmp_path, Image.new("LA", (3, 3), (128, 64)))[0, 0, 0].tolist() == pytest.approx(
        [128 / 255] * 3 + [64 / 255]
    )


def test_one_pixel_and_twelve_thousand(tmp_path):
    assert saved(tmp_path, Image.new("RGB", (1, 1), (255, 0, 0))).tolist() == [[[[1, 0, 0]]]]
    wide = saved(tmp_path, Image.new("RGB", (12000, 40), (0, 255, 0)))
    assert wide.shape == (1, 14, LONGEST_EDGE - 96, 3)  # 12000 / 3
    jpeg = saved(tmp_path, Image.new("RGB", (12000, 9000), (0, 0, 255)), "a.jpg")
    assert max(jpeg.shape) <= LONGEST_EDGE and jpeg.shape[2] > 1000
    deep = saved(tmp_path, Image.fromarray(np.full((30, 9000), 32768, np.uint16)))
    assert max(deep.shape) <= LONGEST_EDGE and torch.allclose(deep, torch.tensor(32768 / 65535), atol=1e-4)


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "notes.png").write_text("not a picture")
    with pytest.raises(ValueError, match="notes.png cannot be read as a picture"):
        load_picture(tmp_path / "notes.png")
    whole = io.BytesIO()
    Image.fromarray(data.coffee()).save(whole, "PNG")
    (tmp_path / "half.png").write_bytes(whole.getvalue()[:20000])
    with pytest.raises(ValueError, match="half.png"):
        load_picture(tmp_path / "half.png")
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="bomb.png.*pixels"):
        load_picture(tmp_path / "bomb.png")


def test_folders_are_read_in_the_order_people_expect(tmp_path):
    for name in ("shoe10.png", "shoe2.png", "Shoe1.png", "notes.txt", "bag.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "deeper.png").mkdir()
    assert [path.name for path in pictures_in(tmp_path)] == ["bag.jpg", "Shoe1.png", "shoe2.png", "shoe10.png"]
