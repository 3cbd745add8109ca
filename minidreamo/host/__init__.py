"""The mini world in the host: its models, and the demo nodes."""
