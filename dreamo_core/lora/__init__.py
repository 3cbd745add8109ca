"""LoRA for FLUX.1 in every layout that is in use: names of layers, key formats, low-rank layers, PEFT settings."""
