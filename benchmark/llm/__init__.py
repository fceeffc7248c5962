"""Frozen language models and the cache of their hidden states."""
