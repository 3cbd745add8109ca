"""The paper's training, on diffusers' FluxTransformer2DModel; imports no host module."""
