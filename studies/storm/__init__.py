"""Parts of the kill storm: how a command is run and killed, and how its outcome is judged."""
