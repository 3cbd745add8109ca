"""Meeting the real weights: whether everything of a user's ComfyUI holds, and its numbers, in one command.

`python -m dreamo_core.check` is the command; docs/measuring.md describes it.
"""
