"""What the open checkpoints are and how each was made to be used."""
