"""The state in one SQLite file. Nothing else knows that it is SQL; `state` is the interface."""
