"""The released sets of files: which belong together, at which strengths, and where they come from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

MANIFEST = Path(__file__).with_name("manifest.json")


@dataclass(frozen=True)
class ReleasedFile:
    """A file of the manifest.

    Attributes:
        id: short name, as in the presets.
        name: file name it is expected under.
        also: other names under which people have it.
        repo, path: where it is published on the Hugging Face Hub.
        size: bytes, None if unknown to us.
        sha256: hex digest, None if unknown to us.
    """

    id: str
    name: str
    also: tuple[str, ...]
    repo: str
    path: str
    size: int | None
    sha256: str | None


UXO_FILES = ("dit_lora.safetensors", "uso-flux1-dit-lora-v1.safetensors", "UMO_UNO.safetensors")
"""LoRAs of UNO, USO and UMO under their released names."""


def read_manifest(path: Path = MANIFEST) -> dict[str, ReleasedFile]:
    """The manifest's files by id."""
    files = json.loads(path.read_text(encoding="utf-8"))["files"]
    return {
        key: ReleasedFile(key, e["name"], tuple(e["also"]), e["repo"], e["path"], e["size"], e["sha256"])
        for key, e in files.items()
    }


FILES = read_manifest()


def is_released(name: str) -> bool:
    """Whether a file of this name is one of the release's own, or UNO's, USO's or UMO's."""
    return name in UXO_FILES or any(name == file.name or name in file.also for file in FILES.values())


TURBO = "turbo"

PRESETS: dict[str, dict[str, float]] = {
    "v1.1": {"dreamo": 1.0, "cfg_distill": 1.0, "sft": 1.0, "dpo": 1.25},
    "v1": {"dreamo": 1.0, "cfg_distill": 1.0, "quality_pos": 0.15, "quality_neg": -0.8},
}
"""Released strengths by file id. Turbo (strength 1) goes with either."""

DOWNLOADS: dict[str, tuple[str, ...]] = {
    **{name: tuple(strengths) for name, strengths in PRESETS.items()},
    TURBO: (TURBO,),
    "embedding": ("embedding",),
    "all": tuple(FILES),
}
"""What `download` understands."""


def missing_message(missing: list[ReleasedFile], folder: Path) -> str:
    """One message for all files that a preset needs and that are not there."""
    lines = [f"  {file.name}  (https://huggingface.co/{file.repo}, {file.path})" for file in missing]
    return (
        f"{len(missing)} file{'s are' if len(missing) > 1 else ' is'} missing. Put into {folder} (or models/loras):\n"
        + "\n".join(lines)
        + "\nor set a strength to 0 to do without that file. `python -m dreamo_core.checkpoint download` fetches them."
    )
