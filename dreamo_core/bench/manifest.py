"""Which files a run was made with: hashes of all data, checked when it goes on and when two runs are compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..checkpoint.download import sha256_of
from ..measure.files import write_json
from .case import Case

Manifest = dict[str, str]
"""SHA-256 by path below the data folder."""

SHOWN = 5


def data_files(cases: Sequence[Case]) -> list[Path]:
    """Every picture and mask of the cases, once, sorted."""
    files = {reference.path for case in cases for reference in case.references}
    files |= {reference.keep for case in cases for reference in case.references if reference.keep}
    return sorted(files)


def manifest_of(cases: Sequence[Case], root: Path) -> Manifest:
    return {file.relative_to(root).as_posix(): sha256_of(file) for file in data_files(cases)}


def unreadable(cases: Sequence[Case], root: Path) -> list[str]:
    """Data files that are no pictures, each with what is wrong."""
    found = []
    for file in data_files(cases):
        try:
            with Image.open(file) as picture:
                picture.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            found.append(f"{file.relative_to(root).as_posix()}: {error}".replace(str(root), "<data>"))
    return found


def differences(wanted: Manifest, have: Manifest) -> list[str]:
    """Sentences on what is not as it was."""
    groups = {
        "missing": sorted(wanted.keys() - have.keys()),
        "new": sorted(have.keys() - wanted.keys()),
        "changed": sorted(name for name in wanted.keys() & have.keys() if wanted[name] != have[name]),
    }
    return [
        f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{' …' if len(names) > SHOWN else ''}"
        for kind, names in groups.items()
        if names
    ]


def read_manifest(path: Path) -> Manifest:
    return json.loads(path.read_text(encoding="utf-8"))["files"]


def claim(path: Path, manifest: Manifest) -> None:
    """Write the manifest of a new run, or see that those of a run that goes on are the same files.

    Raises:
        ValueError: the data are not those that the run began with.
    """
    if not path.exists():
        write_json(path, {"files": manifest})
        return
    if changes := differences(read_manifest(path), manifest):
        raise ValueError(f"The data are not those this run began with ({'; '.join(changes)}); choose another --out.")
