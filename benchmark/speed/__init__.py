"""How fast training is on this machine, and what a step is made of."""
