"""weights: see docs/architecture.md."""
