"""DreamO for ComfyUI: reference pictures for FLUX.1, routed to where they belong."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
