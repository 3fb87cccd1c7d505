"""What is told of requests: counts and metrics, the access log, traces, status. Decides nothing; `serve` reports to it."""
