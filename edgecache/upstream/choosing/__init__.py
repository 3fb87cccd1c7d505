"""Which origin is asked: weights, health, limits and failures of each. No sockets."""
