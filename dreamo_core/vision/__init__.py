"""A vision transformer for SigLIP and DINOv2, and the layouts its files come in."""
