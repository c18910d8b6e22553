"""vae: see docs/architecture.md."""
