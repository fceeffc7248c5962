"""From interactions and item texts to prepared sequences."""
