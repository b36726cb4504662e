"""The server under twice its capacity, a failing model and clients of every kind: `python -m tests.chaos`."""
