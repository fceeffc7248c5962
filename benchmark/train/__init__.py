"""Batches, the training loop, exact evaluation and checkpoints."""
