"""The papers' benchmarks, drawn by a running ComfyUI and scored with known models from local files.

`python -m dreamo_core.bench` is the command; docs/measuring.md describes it.
"""
