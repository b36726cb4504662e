"""Measures the server over HTTP, as any client sees it, against naive servers: `python -m benchmarks`."""
