"""Training: packed batches in, weights out. One loop for backbones and for diffusion heads."""
