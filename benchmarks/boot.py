"""Brings the real host and the pack into this process, as the host would load them; for benchmarks and tests."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def boot(cpu: bool, base: Path | None = None, **flags: bool) -> None:
    """Make `comfy` and the pack (as `dreamo_routed`) importable; on the CPU, or on the host's own device.

    Args:
        base: the host's folder for models, inputs and outputs; a new temporary one if None.
        flags: of the host's command line.

    Raises:
        SystemExit: nobody has said where ComfyUI is.
    """
    comfyui = os.environ.get("DREAMO_COMFYUI")
    if not comfyui:
        raise SystemExit("Run this with python3 scripts/host.py exec: it installs ComfyUI and says where it is.")
    sys.path.insert(0, comfyui)
    import comfy.cli_args

    vars(comfy.cli_args.args).update(flags, cpu=cpu)
    comfy.cli_args.args.base_directory = str(base or tempfile.mkdtemp(prefix="dreamo-benchmark-"))

    import comfy.utils

    comfy.utils.set_progress_bar_enabled(False)
    spec = importlib.util.spec_from_file_location(
        "dreamo_routed", REPO / "__init__.py", submodule_search_locations=[str(REPO)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["dreamo_routed"] = module
    spec.loader.exec_module(module)
