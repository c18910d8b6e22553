"""audio: see docs/architecture.md."""
