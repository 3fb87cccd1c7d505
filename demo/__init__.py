"""`make demo`: an origin, an edge and three example generators on this machine, and a tour of what they do."""
