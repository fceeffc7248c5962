"""The properties of a dataset that decide what a comparison on it can show; docs/audit.md explains them."""
