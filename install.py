"""Run once by ComfyUI-Manager and comfy-cli after requirements.txt; by hand: `python install.py`.

Adds OpenCV where no package has brought it. It cannot stand in requirements.txt: pip would install it over another
pack's opencv-python or opencv-contrib-python, which have the same files under another name, and break both.
"""

import importlib.util
import subprocess
import sys

OPENCV = "opencv-python-headless>=4.9,<6"


def missing() -> list[str]:
    """What has to be installed, as pip's requirements."""
    return [] if importlib.util.find_spec("cv2") else [OPENCV]


def main() -> int:
    wanted = missing()
    if not wanted:
        return 0
    print(f"DreamO: installing {', '.join(wanted)}")
    return subprocess.run([sys.executable, "-m", "pip", "install", *wanted]).returncode


if __name__ == "__main__":
    sys.exit(main())
