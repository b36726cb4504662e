"""Everything that knows torch and transformers. It must never know HTTP, the queue or settings."""
