"""How fast a dataset is prepared, in how much memory, and against a plain pandas version."""
