"""Logs, metrics and traces: their names and their forms. It must never know HTTP, or why something is counted."""
