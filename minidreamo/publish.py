"""Store a trained DreamO in half precision with the mini world's weights, and how it was made in its header.

python -m minidreamo.publish RUN_DIR/dreamo.safetensors KEY=VALUE…
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import load_file

from .store import save_half

TARGET = Path(__file__).resolve().parent / "weights" / "dreamo.safetensors"

if __name__ == "__main__":
    about = dict(pair.split("=", 1) for pair in sys.argv[2:])
    save_half(load_file(sys.argv[1]), TARGET, about)
    print(TARGET)
