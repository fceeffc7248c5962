"""A grid of runs, each in a fresh process."""
