"""Results on the disk: whole or absent, and without anybody's folders in them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes) -> None:
    """Write beside and rename: a run that is killed leaves no half file under a name that counts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        scratch.write_bytes(content)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_whole(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


class Scrubber:
    """Takes folders of this computer out of what others will read.

    Args:
        names: folders by what they are called in the report, for example {"<ComfyUI>": Path("/home/me/ComfyUI")}.
            The home folder and its user's name are always taken out.
    """

    def __init__(self, names: Mapping[str, Path]):
        found = [(str(form), name) for name, path in names.items() for form in {path.absolute(), path.resolve()}]
        found.append((str(Path.home()), "~"))
        # The longest first: a folder inside another has a name of its own.
        self._names = sorted(found, key=lambda one: -len(one[0]))

    def text(self, text: str) -> str:
        for path, name in self._names:
            # Backslashes are doubled in JSON and in what Python shows of a string.
            for form in (path, path.replace("\\", "\\\\"), path.replace("\\", "/")):
                text = text.replace(form, name)
        return text

    def __call__(self, value: Any) -> Any:
        """The same of every string in a value made of dicts and lists."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self(key): self(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self(each) for each in value]
        return value
