"""One fetch for all who want the same, and a body that many read."""
