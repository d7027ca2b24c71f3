"""What a CUDA device does with the engine: parity, exactness, step times. Tried on a CPU by a tiny shape."""
