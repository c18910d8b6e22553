"""streaming: see docs/architecture.md."""
