"""The monitor's work: requests stand in lanes, lanes have workers, and slices are given and paid for. `monitor` is its door."""
