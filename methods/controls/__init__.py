"""Recommenders without training, which stand beside trained rows: see `methods.controls.base`."""
