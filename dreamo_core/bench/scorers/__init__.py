"""Scorers by the names that the papers use, from local files; and the protocol for others."""
