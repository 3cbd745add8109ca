"""Write the demo's reference pictures: held-out subjects on white.

python -m minidreamo.demo_references CACHE_DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from . import art, scenes

NAMES = (
    "pineapple-noto", "balloon-fluent", "tiger-face-twemoji", "pizza-fluent", "snowman-noto", "guitar-flat",
    "pig-noto", "sushi-noto", "stop-sign-flat", "ambulance-twemoji",
)  # fmt: skip
FOLDER = Path(__file__).resolve().parent / "references"


def write(cache: Path) -> None:
    world = art.load(cache)
    FOLDER.mkdir(exist_ok=True)
    for entry in NAMES:
        name, vendor = entry.rsplit("-", 1)
        name = name.replace("-", " ")
        subject = scenes.Subject(world.names.index(name), scenes.STYLES.index(vendor))
        if world.trained[subject.name].any():
            raise SystemExit(f"{name} is not held out.")
        Image.fromarray(scenes.draw_reference(world, subject)).save(FOLDER / f"{entry}.png")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
