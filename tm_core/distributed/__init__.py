"""Several processes work on one sequence: for training, and for streams."""
