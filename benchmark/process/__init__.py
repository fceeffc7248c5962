"""The process: where it imports from, its threads, its terminal and its exit status."""
