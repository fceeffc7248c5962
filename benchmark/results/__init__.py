"""Records, ranks, metrics and published figures: the ground of the report."""
