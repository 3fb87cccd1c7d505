"""Load for a running edge (Locust), and benchmarks against peers that are installed. `make load` and `make bench` run them."""
