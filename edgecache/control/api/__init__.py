"""The control API over HTTP: one module a resource, each a table of endpoints. `routes` joins them into an application."""
