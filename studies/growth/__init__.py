"""How cost grows with the catalogue and the users, and how fast a large catalogue is encoded."""
