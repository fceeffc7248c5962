"""A grid of cells, each run in a fresh process."""
