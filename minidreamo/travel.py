"""Carry the training to another machine and back: a folder as numbered files of a size that may travel.

    python -m minidreamo.travel pack FOLDER OUT [--part 16] [--whole 64] [--only NAME…]
    python -m minidreamo.travel unpack OUT FOLDER

`pack` writes OUT/part-000 and so on, each of at most so many MiB, and OUT/parts.json with their sums; `unpack` checks
them all before it writes anything. Numbered files and folders of FOLDER that `--only` names are taken, or everything.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

MIB = 2**20
INDEX = "parts.json"


def pack(folder: Path, out: Path, part: int, whole: int, only: Sequence[str] = ()) -> list[Path]:
    """Write `folder`, compressed, as parts of at most `part` bytes; returns them.

    Raises:
        SystemExit: together they are more than `whole` bytes (nothing is written), or a name is not there.
    """
    names = sorted(only) or sorted(path.name for path in folder.iterdir())
    for name in names:
        if not (folder / name).exists():
            raise SystemExit(f"{folder} has no {name}.")
    with tempfile.TemporaryFile() as scratch:
        with tarfile.open(fileobj=scratch, mode="w:xz", preset=1) as archive:
            for name in names:
                archive.add(folder / name, name)
        size = scratch.tell()
        if size > whole:
            raise SystemExit(f"{', '.join(names)} of {folder} are {size / MIB:.1f} MiB, more than {whole / MIB:g}.")
        out.mkdir(parents=True, exist_ok=True)
        for old in out.glob("part-*"):
            old.unlink()
        scratch.seek(0)
        paths, sums = [], {}
        while piece := scratch.read(part):
            paths.append(out / f"part-{len(paths):03d}")
            paths[-1].write_bytes(piece)
            sums[paths[-1].name] = hashlib.sha256(piece).hexdigest()
    (out / INDEX).write_text(json.dumps(sums, indent=1) + "\n")
    return paths


def unpack(packed: Path, folder: Path) -> None:
    """Write what `pack` packed into `folder`, with its times; files of other names stay.

    Raises:
        SystemExit: a part is missing or not as it was packed; nothing is written.
    """
    sums = json.loads((packed / INDEX).read_text())
    with tempfile.TemporaryFile() as scratch:
        for name, wanted in sums.items():
            piece = (packed / name).read_bytes() if (packed / name).exists() else b""
            if hashlib.sha256(piece).hexdigest() != wanted:
                raise SystemExit(f"{packed / name} is {'damaged' if piece else 'missing'}; copy it again.")
            scratch.write(piece)
        scratch.seek(0)
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=scratch, mode="r:xz") as archive:
            archive.extractall(folder, filter="data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pack", "unpack"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--part", type=float, default=16, help="MiB of a part at most")
    parser.add_argument("--whole", type=float, default=64, help="MiB of all parts together at most")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    arguments = parser.parse_args()
    if arguments.what == "unpack":
        unpack(arguments.source, arguments.target)
        return
    sizes = int(arguments.part * MIB), int(arguments.whole * MIB)
    for path in pack(arguments.source, arguments.target, *sizes, arguments.only):
        print(f"{path} {path.stat().st_size / MIB:.1f} MiB")


if __name__ == "__main__":
    main()
