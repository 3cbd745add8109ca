"""The joint attention: who takes part in it, and biases on the keys of references."""
