"""`animate --paste-back`: the whole picture, at its size, with one face of it talking."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from tm_core.cli.commands import app as cli
from tm_core.media import probe, read_frames
from tm_core.media.image_io import open_image


def test_one_of_two_faces_talks_and_the_rest_of_the_picture_stays(assets: Path, tmp_path: Path) -> None:
    picture, out = assets / "portraits" / "group.jpg", tmp_path / "group.mp4"
    sound = next((assets / "speech").glob("*.wav"))
    done = CliRunner().invoke(cli, [
        "animate", "--image", str(picture), "--face", "1", "--audio", str(sound), "--out", str(out), "--paste-back", "--quiet"])
    assert done.exit_code == 0, done.output
    height, width = open_image(picture).shape[:2]
    found = probe(out)
    assert (found.width, found.height) == (width, height) and found.audio_s is not None
    frames = np.stack([frame for _, frame in zip(range(60), read_frames(out)[1], strict=False)]).astype(np.float32)
    moved = np.abs(np.diff(frames, axis=0)).mean((0, 3))
    left, right = moved[:, : width // 2], moved[:, width // 2 :]
    assert right.max() > 4 and left[:, : width // 3].max() < 1.5  # H.264 alone moves pixels a little
