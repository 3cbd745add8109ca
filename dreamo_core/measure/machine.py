"""The machine and the versions that numbers belong to."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
LIBRARIES = ("torch", "transformers", "timm", "numpy", "pandas", "scipy", "matplotlib", "diffusers", "safetensors")


def pack_version() -> str:
    return tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["version"]


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def describe_client() -> dict[str, str]:
    """Where this command runs: system, processor, versions. No host name, no user, no folder."""
    return {
        "dreamo-routed": pack_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        **{library: _version(library) for library in LIBRARIES},
    }


def describe_server(stats: dict[str, Any]) -> dict[str, str]:
    """What the server says of itself: versions, devices, memory. Its command line is left out: it has folders in it."""
    system = stats["system"]
    found = {
        "ComfyUI": system.get("comfyui_version", "unknown"),
        "server's Python": system["python_version"].split()[0],
        "server's torch": system.get("pytorch_version", "unknown"),
        "memory": f"{system['ram_total'] / 2**30:.1f} GiB" if "ram_total" in system else "unknown",
    }
    for number, device in enumerate(stats["devices"], start=1):
        found[f"device {number}"] = f"{device['name']} ({device['type']}), {device['vram_total'] / 2**30:.1f} GiB"
    return found
