"""The cache on one core, beside nginx, Varnish and Apache Traffic Server where they are installed. `make bench` runs it."""
