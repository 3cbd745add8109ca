"""DreamO, section 3.1: references in the token sequence, their positions and embeddings."""
