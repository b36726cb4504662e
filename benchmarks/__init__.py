"""Measures the server as a stranger's client would, over HTTP, against naive ones: `python -m benchmarks`."""
