"""Load on a server: many clients at once, in a closed or an open loop, with Locust. `python -m benchmarks.load --help`."""
