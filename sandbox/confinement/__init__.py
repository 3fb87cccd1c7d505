"""The kernel's own bounds around a worker, one module each. `jail` says in which order they are put in force."""
