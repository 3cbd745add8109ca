"""python -m dreamo_core.training CONFIG.toml: train DreamO; the same command again goes on where it stopped.

On several devices: accelerate launch --config_file dreamo_core/training/accelerate/ddp.yaml -m dreamo_core.training
CONFIG.toml; fsdp.yaml splits the frozen weights over the devices where they do not fit on each.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m dreamo_core.training", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--minutes", type=float, help="stop with a checkpoint after so long")
    arguments = parser.parse_args(argv)
    try:
        from .config import load_config
        from .engine import train
    except ImportError as error:
        print(f"error: {error}. Training needs more packages: pip install -e '.[train]'", file=sys.stderr)
        return 1
    try:
        until = None if arguments.minutes is None else time.time() + 60 * arguments.minutes
        print(train(load_config(arguments.config), until))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
