#!/usr/bin/env python3
"""How well pictures are prepared: masks against outlines drawn by hand, faces against the template, a contact sheet.

    python3 scripts/host.py exec benchmarks/reference_preparation.py FOLDER...

The photographs come from packages; put those that scikit-image does not carry anywhere below the FOLDERs:
    grace_hopper.jpg                        matplotlib's wheel, sample_data (US Navy, public domain)
    obama.jpg, obama2.jpg, obama3.jpg, biden.jpg
                                            face_recognition 1.3.0's source archive (White House, public domain)
    squirrel_cls, apple, orange, butterfly, starry_night, handSrc (.jpg), chicky_512.png, and alphamat's plant.jpg with
    its trimaps/plant.png and output_mattes/plant_result.png
                                            Debian's opencv-doc (OpenCV's samples, BSD and Apache-2.0)
Writes reference_preparation.webp and reference_preparation_measured.md beside itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import skimage
import torch
from PIL import Image, ImageDraw
from scipy.optimize import minimize

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from dreamo_core.pictures import background, faces  # noqa: E402
from dreamo_core.pictures.load import load_picture  # noqa: E402
from dreamo_core.pictures.prepare import Preparation, prepare_picture  # noqa: E402

OUTLINES = json.loads((REPO / "benchmarks" / "data" / "subject_outlines.json").read_text())
MATTE = "plant.jpg"
FACES = ("astronaut.png", "grace_hopper.jpg", "obama.jpg", "obama2.jpg", "obama3.jpg", "biden.jpg")
SHEET = [
    *((name, "subject") for name in (*OUTLINES, MATTE, "chelsea.png", "motorcycle_left.png")),
    *((name, "identity") for name in FACES),
    ("coffee.png", "identity"),
    ("starry_night.jpg", "style"),
]
CELL = 150
METHODS = {
    "whole picture": lambda picture: np.ones(picture.shape[:2], np.float32),
    "GrabCut": background.grabcut,
    "person network": background.person_mask,
    "auto, refined": lambda picture: background.cut_out(picture).keep,
}


def find(name: str, folders: list[Path]) -> Path:
    for folder in (Path(skimage.__file__).parent / "data", *folders):
        hits = [p for p in folder.rglob(name) if name != MATTE or p.parent.name == "input_images"]
        if hits:
            return hits[0]
    raise SystemExit(f"{name} is in none of the folders; see the top of this file for where it comes from.")


def load(name: str, folders: list[Path]) -> torch.Tensor:
    return load_picture(find(name, folders))[..., :3]


def known_mask(name: str, shape: tuple, folders: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """The subject (h, w) and where it is known (h, w)."""
    if name == MATTE:
        samples = find(name, folders).parent.parent
        matte = np.asarray(Image.open(samples / "output_mattes" / "plant_result.png").convert("L")) > 127
        trimap = np.asarray(Image.open(samples / "trimaps" / "plant.png").convert("L"))
        return matte, (trimap < 64) | (trimap > 192)
    points = [[int(v) for v in point.split(",")] for point in OUTLINES[name].split()]
    return cv2.fillPoly(np.zeros(shape[:2], np.uint8), [np.array(points)], 1) > 0, np.ones(shape[:2], bool)


def mask_table(folders: list[Path]) -> list[str]:
    lines = ["| picture | " + " | ".join(METHODS) + " |", "|---" * (len(METHODS) + 1) + "|"]
    scores = []
    for name in (*OUTLINES, MATTE):
        picture = load(name, folders)[0].mul(255).round().byte().numpy()
        subject, known = known_mask(name, picture.shape, folders)
        row = []
        for method in METHODS.values():
            found = method(picture)
            # Nothing told apart: the whole picture is kept.
            found = np.ones_like(subject) if found is None else found > 0.5
            row.append((found & subject & known).sum() / ((found | subject) & known).sum())
        scores.append(row)
        lines.append(f"| {Path(name).stem} | " + " | ".join(f"{score:.2f}" for score in row) + " |")
    lines.append("| **mean** | " + " | ".join(f"**{score:.2f}**" for score in np.mean(scores, axis=0)) + " |")
    lines.append("| **median** | " + " | ".join(f"**{score:.2f}**" for score in np.median(scores, axis=0)) + " |")
    return lines


def best_similarity(points: np.ndarray) -> float:
    """The least median distance from the template that any turn, scale and shift of the points can reach."""

    def moved(p: np.ndarray) -> np.ndarray:
        turn = np.array([[p[0], -p[1]], [p[1], p[0]]])
        return np.linalg.norm(points @ turn.T + p[2:] - faces.FFHQ_TEMPLATE, axis=1)

    affine = cv2.estimateAffinePartial2D(points, faces.FFHQ_TEMPLATE, method=cv2.LMEDS)[0]
    start = np.array([affine[0, 0], affine[1, 0], affine[0, 2], affine[1, 2]])
    best = min(
        (
            minimize(lambda p: np.median(moved(p)), start * (1 + 0.02 * noise), method="Nelder-Mead").fun
            for noise in np.random.default_rng(0).normal(size=(4, 4))
        ),
    )
    return float(best)


def lfw_faces() -> list[np.ndarray]:
    """scikit-image's hundred faces of LFW, 25 pixels wide and grey, enlarged and with room around them."""
    pictures = np.load(Path(skimage.__file__).parent / "data" / "lfw_subset.npy")[:100]
    enlarged = [cv2.resize((p * 255).astype(np.uint8), (200, 200), interpolation=cv2.INTER_CUBIC) for p in pictures]
    framed = [cv2.copyMakeBorder(p, 100, 100, 100, 100, cv2.BORDER_REPLICATE) for p in enlarged]
    return [np.repeat(p[:, :, None], 3, axis=2) for p in framed]


def alignment(pictures: list[np.ndarray]) -> dict[str, str]:
    mapped, afresh, floor, found = [], [], [], 0
    for picture in pictures:
        for face in faces.find_faces(picture)[:1]:
            found += 1
            crop, affine = faces.align(picture, face.points)
            mapped.append(faces.transform(face.points, affine))
            floor.append(best_similarity(face.points))
            again = faces.find_faces(crop)
            if again:
                afresh.append(np.linalg.norm(again[0].points - mapped[-1], axis=1))
    distance = np.linalg.norm(np.array(mapped) - faces.FFHQ_TEMPLATE, axis=2)
    bias = np.linalg.norm(np.median(mapped, axis=0) - faces.FFHQ_TEMPLATE, axis=1)
    return {
        "faces found": f"{found} of {len(pictures)}",
        "crop's own landmarks to where the map puts them, median": f"{np.median(np.concatenate(afresh)):.1f} px",
        "the faces' median landmark to the template, median of the five": f"{np.median(bias):.1f} px",
        "each landmark of each face to the template, median": f"{np.median(distance):.1f} px",
        "each face's median landmark to the template, median": f"{np.median(np.median(distance, axis=1)):.1f} px",
        "the same, for the best similarity there is": f"{np.median(floor):.1f} px",
    }


def cell(picture: np.ndarray, text: str = "") -> Image.Image:
    image = Image.fromarray(picture)
    image.thumbnail((CELL, CELL))
    framed = Image.new("RGB", (CELL, CELL + 12), (120, 120, 120))
    framed.paste(image, ((CELL - image.width) // 2, 12))
    ImageDraw.Draw(framed).text((2, 0), text, fill="white")
    return framed


def contact_sheet(folders: list[Path]) -> tuple[Image.Image, list[str]]:
    columns = 3
    rows = -(-len(SHEET) // columns)
    sheet = Image.new("RGB", (columns * (3 * CELL + 12), rows * (CELL + 12)), (60, 60, 60))
    notes = []
    for i, (name, task) in enumerate(SHEET):
        image = load(name, folders)
        prepared = prepare_picture(image, task, 512, None, Preparation())
        pixels = prepared.pixels[0].mul(255).round().byte().numpy()
        keep = np.ones(pixels.shape[:2]) if prepared.keep is None else prepared.keep[0].numpy()
        mask = np.repeat((keep * 255).astype(np.uint8)[:, :, None], 3, axis=2)
        title = f"{Path(name).stem}: {task}"
        notes.append(f"- {title}: {prepared.note}")
        x, y = (i % columns) * (3 * CELL + 12), (i // columns) * (CELL + 12)
        pictures = (image[0].mul(255).round().byte().numpy(), mask, pixels)
        for j, (picture, text) in enumerate(zip(pictures, (title, "", ""), strict=True)):
            sheet.paste(cell(picture, text), (x + j * CELL, y))
    return sheet, notes


def main(folders: list[Path]) -> None:
    here = REPO / "benchmarks"
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    lines = [
        "Measured by `reference_preparation.py`.",
        "",
        "## Masks: intersection over union with outlines drawn by hand",
        "",
    ]
    lines += mask_table(folders)
    photographs = [load(name, folders)[0].mul(255).round().byte().numpy() for name in FACES]
    both = {"photographs": alignment(photographs), "LFW, 25 px": alignment(lfw_faces())}
    lines += ["", "## Faces: landmarks after alignment, in pixels of the 512 × 512 crop", ""]
    lines += ["| | " + " | ".join(both) + " |", "|---" * (len(both) + 1) + "|"]
    lines += [f"| {key} | " + " | ".join(str(v[key]) for v in both.values()) + " |" for key in both["photographs"]]
    sheet, notes = contact_sheet(folders)
    sheet.save(here / "reference_preparation.webp", quality=80, method=6)
    lines += ["", "## Contact sheet", "", "`reference_preparation.webp`: input, mask, what the model sees.", "", *notes]
    print("\n".join(lines))
    (here / "reference_preparation_measured.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
