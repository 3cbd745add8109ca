"""DreamO for ComfyUI: reference pictures for FLUX.1, routed to where they belong."""

from .nodes import comfy_entrypoint

# Served under this folder's name, which is where the front end looks for node help (pyproject's `web` goes by the
# project's name instead, and both together would load every script twice).
WEB_DIRECTORY = "web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
