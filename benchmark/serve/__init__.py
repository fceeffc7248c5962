"""Use a run: a folder with its model, recommendations from it, and embeddings of new items."""
