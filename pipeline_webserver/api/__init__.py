"""The wire contracts, pure: bytes to inputs, outputs to bytes. It must never know Starlette, the queue or the model."""
