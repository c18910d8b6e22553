"""What the benchmarks' tests share: the corpora, where they were made, and the bundled model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tm_core.model.talking import TalkingModel
from tm_core.weights.loading import load_model


@pytest.fixture
def held_corpus() -> Path:
    """The folder of the corpora; a reasoned skip where they were not made."""
    from benchmarks._truth import corpus_folder

    folder = corpus_folder()
    if not (folder / "faces" / "faces.json").is_file() or not list((folder / "speech").glob("*.npz")):
        pytest.skip(f"corpora: {folder}: not there; make them with python -m tm_core.train.corpus --out build/corpus")
    return folder


@pytest.fixture(scope="session")
def model() -> TalkingModel:
    """The bundled weights."""
    return load_model()
