"""References that cost little: keys and values kept from step to step."""
