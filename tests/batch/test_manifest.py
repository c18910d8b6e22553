"""Manifests: what is understood, and everything that is wrong said at once, with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tm_core.batch.manifest import ManifestError, Options, parse_manifest, read_manifest
from tm_core.batch.pairs import pair_up, pictures_in
from tm_core.errors import InputError


def parsed(text: str, folder: Path) -> list[str]:
    return [i.out for i in parse_manifest(text, lambda name: folder / name)]


def problems(text: str, folder: Path) -> dict[int, list[str]]:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text, lambda name: folder / name)
    found: dict[int, list[str]] = {}
    for p in caught.value.problems:
        found.setdefault(p.line, []).append(p.text)
    return found


@pytest.mark.parametrize("delimiter", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
def test_csv_with_options(files: Path, delimiter: str) -> None:
    rows = [
        ["image", "audio", "out", "seed", "steps", "speaking", "face", "mask"], ["face.jpg", "voice.wav", "a.mp4", *[""] * 5], [],
        ["face.jpg", "voice.wav", "sub/b.mp4", "7", "1", "listening", "0", "face.jpg"]]
    path = files / "jobs.csv"
    path.write_text("\ufeff" + "\n".join(delimiter.join(r) for r in rows), encoding="utf-8")
    plain, full = read_manifest(path)
    assert (plain.line, plain.out, plain.options, plain.mask) == (2, "a.mp4", Options(), None)
    assert (full.line, full.out) == (4, "sub/b.mp4") and full.image == files / "face.jpg" and full.mask == files / "face.jpg"
    assert full.options == Options(seed=7, steps=1, speaking="listening", face=0)


def test_json_lines_say_the_same(files: Path) -> None:
    row = {"image": "face.jpg", "audio": "voice.wav", "out": "./x/../b.mp4", "seed": 7, "steps": None, "face": 0}
    (item,) = parse_manifest(json.dumps(row) + "\n\n", lambda name: files / name)
    assert item.out == "b.mp4" and item.options == Options(seed=7, face=0)


def test_all_problems_at_once_with_their_lines(files: Path) -> None:
    found = problems(
        "image,audio,out,colour,seed\n"
        "face.jpg,voice.wav,a.mp4,,x\n"
        "nose.jpg,voice.wav,A.mp4,,\n"
        "face.jpg,,../b.mp4,,-1\n"
        "face.jpg,voice.wav,c.avi,,,too,many\n", files)
    assert "colour" in found[1][0] and "known are image" in found[1][0]
    assert "seed: x" in found[2][0]
    assert any("nose.jpg: no such file" in t for t in found[3]) and any("line 2 writes it too" in t for t in found[3])
    assert any("audio: nothing given" in t for t in found[4]) and any("below the output folder" in t for t in found[4])
    assert any("seed: -1" in t for t in found[4])
    assert any(".mp4" in t for t in found[5]) and any("7 cells under 5 columns" in t for t in found[5])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"image": "face.jpg"', "no JSON"),
        ('["image"]', "no JSON object"),
        ('{"image": 3, "audio": "voice.wav", "out": "a.mp4"}', "image: 3: is no path"),
        ('{"image": "face.jpg", "audio": "voice.wav", "out": "a.mp4", "seed": 1.5}', "seed: 1.5: is no whole number"),
        ('{"image": "face.jpg", "audio": "voice.wav", "out": "a.mp4", "speaking": "shout"}', "shout"),
        ('{"image": "face.jpg", "audio": "voice.wav", "out": "a.mp4", "face": -1}', "counted from 0"),
        ('{"image": "face.jpg", "audio": "voice.wav", "out": "a.mp4", "steps": 0}', "steps"),
        ('{"image": "face.jpg", "audio": "voice.wav", "out": ".batch/a.mp4"}', "unfinished"),
        ('{"image": "face.jpg", "audio": "voice.wav", "out": "/a.mp4"}', "below the output folder"),
        ('{"image": "face.jpg", "audio": "voice.wav", "out": "C:\\\\a.mp4"}', "below the output folder"),
        ('{"image": "face.jpg", "audio": "voice.wav", "out": "a.mp4", "sead": 1}', "unknown columns: sead"),
    ], ids=["cut", "list", "number", "half", "mode", "face", "steps", "staging", "absolute", "drive", "column"])
def test_what_a_line_may_not_say(files: Path, row: str, words: str) -> None:
    good = '{"image": "face.jpg", "audio": "voice.wav", "out": "good.mp4"}\n'
    found = problems(good + row, files)
    assert list(found) == [2] and words in " ".join(found[2]), found


@pytest.mark.parametrize("text", ["", "  \n", "image,audio,out\n"], ids=["empty", "blank", "header"])
def test_a_manifest_without_items(files: Path, text: str) -> None:
    with pytest.raises(InputError, match="manifest"):
        parsed(text, files)


def test_the_error_has_a_line_for_each_problem(files: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        parsed("image,audio,out\nx,voice.wav,a.mp4\ny,voice.wav,b.mp4\n", files)
    first, *rest = str(caught.value).splitlines()
    assert "2 problems" in first and [line.split(":")[0] for line in rest] == ["line 2", "line 3"]


def test_portraits_are_paired_with_sounds_by_name(files: Path) -> None:
    faces, voices = files / "faces", files / "voices"
    faces.mkdir()
    voices.mkdir()
    for name in ("anna.jpg", "Ben.png"):
        (faces / name).write_bytes(b"x")
    for name in ("Anna.wav", "ben.mp3", "notes.txt"):
        (voices / name).write_bytes(b"x")
    items = pair_up(pictures_in(faces), voices, {"seed": 3})
    assert {(i.out, i.audio.name, i.options.seed) for i in items} == {("anna.mp4", "Anna.wav", 3), ("Ben.mp4", "ben.mp3", 3)}
    assert {i.audio for i in pair_up(pictures_in(faces), files / "voice.wav", {})} == {files / "voice.wav"}
    (voices / "ben.mp3").rename(voices / "carl.mp3")
    with pytest.raises(ManifestError) as caught:
        pair_up(pictures_in(faces), voices, {})
    assert "Ben.png" in str(caught.value) and "carl.mp3" in str(caught.value)
    (faces / "anna.png").write_bytes(b"x")
    with pytest.raises(InputError, match="one video"):
        pictures_in(faces)


def test_every_picture_of_a_folder_is_a_portrait_even_one_only_some_machines_read(tmp_path: Path) -> None:
    """An avif or a heic that cannot be read is told as an item's error; left out silently, nobody would miss it."""
    names = ["a.PNG", "b.avif", "c.heic", "d.jfif", "e.jxl", "f.webp"]
    for name in [*names, "notes.txt", ".hidden.png"]:
        (tmp_path / name).write_bytes(b"x")
    assert [p.name for p in pictures_in(tmp_path)] == names
