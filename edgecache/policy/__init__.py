"""RFC 9111 and its kin as pure functions over values: no I/O, no clock. `serve` asks, and does what is decided."""
