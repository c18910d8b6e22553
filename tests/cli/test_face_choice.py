"""`--face` of the command line: a number, all, or an error that lists the faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tm_core.cli.argument_checks import parse_face
from tm_core.cli.commands import app as cli
from tm_core.errors import InputError
from tm_core.media import probe, read_frames
from tm_core.media.image_io import open_image


def test_a_number_all_or_nothing() -> None:
    assert [parse_face(v) for v in (None, "2", "all")] == [None, 2, "all"]
    with pytest.raises(InputError, match=r"--face: left: .*a number from 0, or all"):
        parse_face("left")


def test_all_faces_of_a_group_talk(assets: Path, tmp_path: Path) -> None:
    picture, out = assets / "portraits" / "group.jpg", tmp_path / "group.mp4"
    sound = next((assets / "speech").glob("*.wav"))
    clip = tmp_path / "clip.wav"
    clip.write_bytes(sound.read_bytes()[: 44 + 2 * 16000])
    arguments = ["animate", "--image", str(picture), "--audio", str(clip), "--out", str(out), "--quiet", "--speaking", "speaking"]
    done = CliRunner().invoke(cli, [*arguments, "--face", "all"])
    assert done.exit_code == 0, done.output
    height, width = open_image(picture).shape[:2]
    assert (probe(out).width, probe(out).height) == (width, height)
    frames = np.stack(list(read_frames(out)[1])).astype(np.float32)
    moved = np.abs(np.diff(frames, axis=0)).mean((0, 3))
    assert moved[:, : width // 2].max() > 3 and moved[:, width // 2 :].max() > 3
