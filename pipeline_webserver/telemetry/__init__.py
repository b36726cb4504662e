"""Logs, metrics and traces: their names and their forms. It must never know HTTP, or why something is counted."""

from pipeline_webserver.telemetry import shared_folder

# Before anything of this package imports prometheus_client, which decides then whether its values are shared.
shared_folder.share_among_workers()
