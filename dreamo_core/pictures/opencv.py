"""OpenCV, from whichever of its packages is installed.

Four packages on PyPI bring the same module `cv2` (opencv-python, opencv-contrib-python, and both without windows), and
installing one over another breaks both. Others may have brought theirs already, so none of them is a requirement of
this pack: `install.py` adds one only where there is no `cv2` at all.
"""

from __future__ import annotations

try:
    import cv2
except ImportError as error:
    raise ImportError(
        f"DreamO prepares pictures with OpenCV, which cannot be imported here ({error}). If no opencv package is "
        "installed, run `python -m pip install opencv-python-headless` with ComfyUI's Python; if one is, reinstall "
        "that one."
    ) from error

__all__ = ["cv2"]
