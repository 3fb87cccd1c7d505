"""Clients: listeners, protocols and the fast lane, and a request's way from its head to its answer. `processes.path` joins it."""
