"""One run: what it is, what it reads, its trainer, its record."""
