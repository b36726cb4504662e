"""Everything behind `server`, `batching` and `config`: four rooms, and what they share.

`web` (Starlette, uvicorn) stands on `scheduling` (who is admitted, when a batch leaves), `inference` (torch and
transformers) and `api` (the wire contracts), which do not know each other; all stand on `telemetry` and `errors`.
"""

VERSION = "0.1.0"
