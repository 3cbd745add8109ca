"""Graphs of DreamO's official node pack, on this pack's nodes."""
