"""Exact optimizations of a loaded model. They must never know tasks or pipelines."""
