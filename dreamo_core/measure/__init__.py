"""Measuring with a running ComfyUI: what `python -m dreamo_core.check` and `python -m dreamo_core.bench` share.

Nothing here is imported by the nodes. Needs the optional extra `bench`.
"""
