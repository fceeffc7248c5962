"""Compare two figures by their settings."""
