"""Text generation step by step: each forward pass computes tokens of many sequences. Only `inference` knows it."""
