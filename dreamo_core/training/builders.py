"""Making training pairs from pictures at hand; each function writes pictures and returns one manifest line.

    python -m dreamo_core.training.builders KIND SOURCE_DIR OUT_DIR [--size 512]

KIND and what SOURCE_DIR holds, each picture with its prompt in a .txt of the same name:
  two-column   pictures whose left and right halves show the same subject (diptychs of a text-to-image model)
  subject      pictures and masks: `x.png` with `x.mask.png`, white where the subject is; the reference is cut out
  identity     the same, the mask being of a face; garment: of a piece of clothing
  style        folders of one style each; the reference is another picture of the folder
  reconstruct  pictures of the base model itself, for stage 3
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..text.style import with_style_trigger
from .manifest import MULTIPLE

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def fitted(picture: Image.Image, size: int) -> Image.Image:
    """Area-resized to about size² pixels, both sides a multiple of 16."""
    scale = size / (picture.width * picture.height) ** 0.5
    sides = [max(MULTIPLE, round(side * scale / MULTIPLE) * MULTIPLE) for side in picture.size]
    return picture.resize(sides, Image.Resampling.BOX if scale < 1 else Image.Resampling.LANCZOS)


def columns(picture: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Left and right half of a diptych."""
    half = picture.width // 2
    return picture.crop((0, 0, half, picture.height)), picture.crop((picture.width - half, 0, *picture.size))


def cut_out(picture: Image.Image, mask: Image.Image, margin: float = 0.05) -> Image.Image:
    """What the mask covers, on white, cropped to it with a margin.

    Raises:
        ValueError: the mask is of another size or covers nothing.
    """
    if mask.size != picture.size:
        raise ValueError(f"the mask is {mask.size}, the picture {picture.size}")
    alpha = mask.convert("L")
    box = alpha.point(lambda value: 255 if value > 127 else 0).getbbox()
    if box is None:
        raise ValueError("the mask covers nothing")
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=alpha)
    wider = round(margin * max(box[2] - box[0], box[3] - box[1]))
    return white.crop(
        (
            max(box[0] - wider, 0),
            max(box[1] - wider, 0),
            min(box[2] + wider, white.width),
            min(box[3] + wider, white.height),
        )
    )


def _prompt(path: Path) -> str:
    text = path.with_suffix(".txt")
    if not text.is_file():
        raise ValueError(f"{path.name} has no prompt: {text.name} is missing")
    return text.read_text(encoding="utf-8").strip()


def _marked(prompt: str) -> str:
    """With a placeholder, where the writer of the prompt put none."""
    return prompt if "[ref#1]" in prompt else f"{prompt}, from [ref#1]"


def _line(out: Path, name: str, task: str, prompt: str, target, reference, size: int, mask=None) -> str:
    entry = {"image": f"{name}-1.png"}
    target = fitted(target.convert("RGB"), size)
    target.save(out / f"{name}.png")
    fitted(reference.convert("RGB"), size).save(out / entry["image"])
    if mask is not None:
        entry["mask"] = f"{name}-1m.png"
        mask.convert("L").resize(target.size, Image.Resampling.BOX).save(out / entry["mask"])
    return json.dumps({"target": f"{name}.png", "task": task, "prompt": prompt, "references": [entry]})


def two_column(path: Path, out: Path, name: str, size: int) -> str:
    reference, target = columns(Image.open(path).convert("RGB"))
    return _line(out, name, "subject", _marked(_prompt(path)), target, reference, size)


def masked(task: str) -> Callable[[Path, Path, str, int], str]:
    """The builder of subject, identity or garment pairs: the target's own subject, cut out."""

    def build(path: Path, out: Path, name: str, size: int) -> str:
        beside = path.with_name(f"{path.stem}.mask.png")
        if not beside.is_file():
            raise ValueError(f"{path.name} has no mask: {beside.name} is missing")
        picture, mask = Image.open(path).convert("RGB"), Image.open(beside)
        return _line(out, name, task, _marked(_prompt(path)), picture, cut_out(picture, mask), size, mask)

    return build


def style(path: Path, out: Path, name: str, size: int) -> str:
    """The reference is another picture of the same folder, so its content is not the target's."""
    others = [other for other in _pictures(path.parent) if other != path]
    if not others:
        raise ValueError(f"{path.parent.name} has one picture; a style needs two or more")
    seed = int.from_bytes(name.encode(), "big") % 2**32
    reference = others[np.random.default_rng(seed).integers(len(others))]
    return _line(out, name, "style", with_style_trigger(_prompt(path)), Image.open(path), Image.open(reference), size)


def reconstruct(path: Path, out: Path, name: str, size: int) -> str:
    picture = Image.open(path)
    return _line(out, name, "reconstruct", _marked(_prompt(path)), picture, picture, size)


KINDS: dict[str, Callable[[Path, Path, str, int], str]] = {
    "two-column": two_column,
    "subject": masked("subject"),
    "identity": masked("identity"),
    "garment": masked("try-on"),
    "style": style,
    "reconstruct": reconstruct,
}


def _pictures(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.stem.endswith(".mask"):
            yield path


def build(kind: str, source: Path, out: Path, size: int, say: Callable[[str], None] = print) -> int:
    """Build a manifest `KIND.jsonl` in `out`; what cannot be used is named and left out.

    Returns:
        The number of lines.
    """
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, path in enumerate(_pictures(source)):
        try:
            lines.append(KINDS[kind](path, out, f"{kind}-{number:06d}", size))
        except (ValueError, OSError) as error:
            say(f"left out {path}: {error}")
    (out / f"{kind}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return len(lines)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=512)
    arguments = parser.parse_args(argv)
    count = build(arguments.kind, arguments.source, arguments.out, arguments.size)
    print(f"{count} lines in {arguments.out / arguments.kind}.jsonl")
    return 0 if count else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
