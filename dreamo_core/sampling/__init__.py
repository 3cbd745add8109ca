"""The model call."""
