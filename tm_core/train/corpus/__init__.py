"""Training corpora: speech with phone times and faces, fetched from packages; see docs/data.md."""
