"""The DreamO method (arXiv 2504.16915) in torch: one module per idea, no host import outside `host`."""
