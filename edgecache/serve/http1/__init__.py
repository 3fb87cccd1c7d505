"""Connections of HTTP/1.1: what arrives, the turn of each request, and what is sent."""
