"""Which inputs are admitted, and when a batch leaves. It must never know HTTP, torch, JSON or settings."""
