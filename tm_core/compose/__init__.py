"""Several streams on one canvas, and their voices in one sound."""
