"""Bundles of records that others can check, and the verifier that checks them without training anything."""
