"""Checkpoints made of model files in other formats."""
