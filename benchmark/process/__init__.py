"""The process: what it sets before it imports anything, its parent, its output and its exit status."""
