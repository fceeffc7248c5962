"""A process apart from its work: start and end, its parent, locks, memory, network and progress."""
