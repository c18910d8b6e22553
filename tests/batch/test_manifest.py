"""Manifests: what is understood, and everything that is wrong said at once, with its line."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tm_core.batch.digest import Digests
from tm_core.batch.manifest import BatchItem, ManifestError, parse_manifest, read_manifest
from tm_core.batch.pairs import pair_up, pictures_in
from tm_core.errors import InputError
from tm_core.options import AnimateOptions


def parsed(text: str, folder: Path) -> list[str]:
    return [i.out for i in items(text, folder)]


def items(text: str, folder: Path) -> list[BatchItem]:
    return parse_manifest(text, lambda name: folder / name, folder.parent / "out")


def problems(text: str, folder: Path) -> dict[int, list[str]]:
    with pytest.raises(ManifestError) as caught:
        items(text, folder)
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
    plain, full = read_manifest(path, files / "out")
    assert (plain.line, plain.out, plain.options, plain.mask) == (2, "a.mp4", AnimateOptions(), None)
    assert (full.line, full.out) == (4, "sub/b.mp4") and full.image == files / "face.jpg" and full.mask == files / "face.jpg"
    assert full.options == AnimateOptions(seed=7, steps=1, speaking="listening", face=0)


def test_json_lines_say_the_same(files: Path) -> None:
    row = {"image": "face.jpg", "audio": "voice.wav", "out": "./x/../b.mp4", "seed": 7, "steps": None, "face": 0}
    (item,) = items(json.dumps(row) + "\n\n", files)
    assert item.out == "b.mp4" and item.options == AnimateOptions(seed=7, face=0)


def test_all_problems_at_once_with_their_lines(files: Path) -> None:
    found = problems(
        "image,audio,out,colour,seed\n"
        "face.jpg,voice.wav,a.mp4,,x\n"
        "nose.jpg,voice.wav,A.mp4,,\n"
        "face.jpg,,../b.mp4,,-1\n"
        "face.jpg,voice.wav,c.avi,,,too,many\n", files)
    assert "colour" in found[1][0] and "known are image" in found[1][0]
    assert "seed: x" in found[2][0]
    assert any("nose.jpg: no such file" in t for t in found[3]) and any("is the file that line 2 writes" in t for t in found[3])
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


# -- as people and spreadsheets write it


GOOD = "image,audio,out,seed\nface.jpg,voice.wav,a.mp4,\n\nface.jpg,voice.wav,sub/b.mp4,7\n"


@pytest.mark.parametrize(
    "data",
    [
        GOOD.replace("\n", "\r\n").encode(), GOOD.replace("\n", "\r").encode(), GOOD.encode("utf-8-sig"),
        GOOD.replace(",", "\t").encode("utf-16"), b"\xfe\xff" + GOOD.encode("utf-16-be"), GOOD.encode("utf-16-le"),
        GOOD.replace(",", ";").encode(), GOOD.replace("image,audio,out", "Image, AUDIO ,Out").encode(),
        GOOD.replace("\n", ",,\n").encode(), GOOD.replace("seed", "seed,").replace(",7", ",7,").encode(),
        GOOD.replace("face.jpg", ' "face.jpg" ').replace("voice.wav", "  voice.wav ").encode(), GOOD.replace(",7", ",7.0").encode(),
        GOOD.replace(",7", ",+7").encode(), GOOD.replace(",", ";").replace(";7", ';7,0').encode(),
        GOOD.replace("\n\n", "\n# the second:\n").encode(), GOOD.replace("sub/b", "sub\\b").encode(),
        GOOD.replace("face.jpg", ".\\face.jpg").encode(),
    ],
    ids=["crlf", "cr", "byte-order-mark", "excel's unicode text", "utf-16-be", "utf-16 without mark", "semicolons", "capital headers",
         "trailing separators", "an unnamed empty column", "spaces and quotes", "1.0", "+7", "decimal comma", "comment", "backslash in out",
         "backslash in image"])
def test_csv_is_read_as_it_is_meant(files: Path, data: bytes) -> None:
    path = files / "jobs.csv"
    path.write_bytes(data)
    found = read_manifest(path, files / "out")
    assert [(i.line, i.out, i.options.seed) for i in found] == [(2, "a.mp4", 0), (4, "sub/b.mp4", 7)]
    assert {i.image.resolve() for i in found} == {files / "face.jpg"} and {i.audio for i in found} == {files / "voice.wav"}


def test_spreadsheet_may_name_its_separator(files: Path) -> None:
    assert [(i.line, i.out) for i in items("sep=;\nimage;audio;out\nface.jpg;voice.wav;a,b.mp4\n", files)] == [(3, "a,b.mp4")]


ROWS = [
    {"image": "face.jpg", "audio": "voice.wav", "out": "a.mp4"}, {"Image": "face.jpg", "audio": " voice.wav", "OUT": "b.mp4", "seed": 7.0}]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (json.dumps(ROWS), (1, 1)), (json.dumps(ROWS, indent=2), (2, 7)), (json.dumps({"items": ROWS}, indent=1), (3, 8)),
        ("\n" + json.dumps(ROWS[0]) + "\n# next\n" + json.dumps(ROWS[1]), (2, 4)), ("\ufeff[\n" + json.dumps(ROWS)[1:], (2, 2)),
    ], ids=["array", "pretty array", "items", "lines", "byte-order mark"])
def test_json_is_read_as_it_is_meant(files: Path, text: str, lines: tuple[int, int]) -> None:
    found = items(text, files)
    assert [(i.line, i.out, i.options.seed) for i in found] == [(lines[0], "a.mp4", 0), (lines[1], "b.mp4", 7)]


def test_pretty_object_is_one_item(files: Path) -> None:
    assert [(i.line, i.out) for i in items(json.dumps(ROWS[0], indent=2), files)] == [(1, "a.mp4")]


HEAD = "image,audio,out,seed,paste_back,framing,face,track\n"
ROW = "face.jpg,voice.wav,a.mp4,"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (HEAD + ROW + "1.5", 2, "seed: 1.5: is no whole number"), (HEAD + ROW + "1.000", 2, "seed: 1.000: is no whole number"),
        (HEAD + ROW + "1e3", 2, "is no whole number"), (HEAD + ROW + "9" * 5000, 2, "is no whole number"),
        (HEAD + ROW + ",maybe", 2, "paste_back: maybe: is neither yes nor no"),
        (HEAD + ROW + ",,frame", 2, "framing: frame: is no framing"),
        (HEAD + ROW + ",yes,face", 2, "paste_back says yes"), (HEAD + ROW + ",,,some", 2, "face: some: is no whole number, nor all"),
        (HEAD + ROW + ",,face,all", 2, "face: all: all faces are animated in their picture"), (HEAD + ROW + ",,,,-1", 2, "track: -1"),
        (HEAD + ROW + ",,,,one", 2, "track: one: is no whole number"),
        (HEAD + 'face.jpg,voice.wav,"a.mp4,\nface.jpg,voice.wav,b.mp4\n', 2, "a quotation mark is opened and not closed"),
        (HEAD + "face.jpg,voice.wav,a\0.mp4", 2, ""), ("face.jpg,voice.wav,a.mp4\n" * 3, 1, "names no columns; begin with a line as image"),
        ("image,out\nface.jpg,a.mp4\nface.jpg,b.mp4\n", 1, "columns that are missing: audio"),
        ("[\n" + json.dumps(ROWS[0]) + ",\n{]", 3, "is no JSON"), ("{\n'image': 1}", 2, "is no JSON"),
        ("[" * 9000, 1, "too deeply nested"), ("[1]", 1, "is no JSON object"),
        (json.dumps(ROWS[0])[:-1] + ', "out": "c.mp4"}', 1, "columns given twice: out"),
        (json.dumps(ROWS[0])[:-1] + ', "Out": "c.mp4"}', 1, "columns given twice: out"),
        (json.dumps(ROWS[0])[:-1] + ', "seed": NaN}', 1, "seed: nan: is no whole number"),
        (json.dumps(ROWS[0])[:-1] + ', "seed": true}', 1, "seed: True: is no whole number"),
        (json.dumps(ROWS[0])[:-1] + ', "seed": {"a": 1}}', 1, "is no whole number"),
        ('{"image": ["face.jpg"], "audio": "voice.wav", "out": "a.mp4"}', 1, "is no path"),
        (r'{"image": "sub\new.jpg", "audio": "voice.wav", "out": "a.mp4"}'.replace("\\\\", "\\"), 1, "in JSON a backslash is written"),
        (r'{"image": "sub\x.jpg", "audio": "voice.wav", "out": "a.mp4"}'.replace("\\\\", "\\"), 1, "a backslash in JSON is written"),
        (r'{"image": "face.jpg", "audio": "voice.wav", "out": "\ud800.mp4"}'.replace("\\\\", "\\"), 1, "half a character"),
    ],
    ids=["half", "thousands", "exponent", "5000 digits", "no boolean", "no framing", "both", "face", "all, framing face", "track",
         "track word", "open quote", "zero", "no header", "missing column", "pretty and wrong", "single quotes", "deep", "number", "twice",
         "twice by capitals", "NaN", "true", "nested", "list", "newline by accident", "bad escape", "surrogate"])
def test_what_is_not_understood_is_refused_with_its_line(files: Path, text: str, line: int, words: str) -> None:
    found = problems(text, files)
    assert list(found) == [line] and words in " ".join(found[line]), found


def test_letters_of_another_code_page_are_refused_with_their_line(files: Path) -> None:
    path = files / "jobs.csv"
    path.write_bytes("image,audio,out\nface.jpg,voice.wav,a.mp4\nface.jpg,voice.wav,M\u00fcller.mp4\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"line 3 .*is no UTF-8 text; save it as UTF-8 .a table: as CSV UTF-8"):
        read_manifest(path, files / "out")


def test_columns_that_came_later(files: Path) -> None:
    head = "image,audio,out,paste_back,framing,face,track\n"
    cells = ["TRUE,,all,", "yes,,,", "1,picture,2.0,1", ",picture,,", "no,face,,0", ",face,,", "off,,0,"]
    found = items(head + "".join(f"face.jpg,voice.wav,{n}.mp4,{c}\n" for n, c in enumerate(cells)), files)
    assert [(i.options.framing, i.options.face, i.options.track) for i in found] == [
        ("picture", "all", None), ("picture", None, None), ("picture", 2, 1), ("picture", None, None), ("face", None, 0),
        ("face", None, None), ("face", 0, None)]
    (item,) = items(json.dumps([{**ROWS[0], "paste_back": True, "face": "All", "track": 0, "size": 768}]), files)
    assert item.options == AnimateOptions(framing="picture", face="all", track=0, size=768)


def test_options_that_came_later_make_finished_videos_again_only_where_they_are_used(files: Path) -> None:
    (item,) = items("image,audio,out\nface.jpg,voice.wav,a.mp4\n", files)
    assert item.options.to_dict() == {"seed": 0, "steps": None, "speaking": "auto", "face": None, "framing": "picture"}
    changed = [
        AnimateOptions(), AnimateOptions(track=0), AnimateOptions(track=1), AnimateOptions(framing="face"), AnimateOptions(blinks=False),
        AnimateOptions(size=512), AnimateOptions(face="all")]
    assert len({Digests("model").of(replace(item, options=options)) for options in changed}) == len(changed)


# -- what a video may not be written over


@pytest.mark.parametrize(
    ("outs", "line", "words"),
    [
        (["x.mp4", "in/clip.mp4"], 3, "is the file that line 2 reads"), (["x.mp4", "IN/Clip.mp4"], 3, "is the file that line 2 reads"),
        (["x.mp4", "./y/../in/clip.mp4"], 3, "is the file that line 2 reads"),
        (["x.mp4", "link/clip.mp4"], 3, "is the file that line 2 reads"),
        (["soft.mp4", "x.mp4"], 2, "is the file that line 2 reads"), (["hard.mp4", "x.mp4"], 2, "is the file that line 2 reads"),
        (["d.mp4", "d.mp4/x.mp4"], 3, "is the file that line 2 writes"),
        (["d.mp4/x.mp4", "D.mp4"], 3, "is a folder that line 2 writes into"),
        (["x.mp4", "X.mp4"], 3, "is the file that line 2 writes"), (["jobs.mp4", "x.mp4"], 2, "is the file that manifest reads"),
        (["ledger.jsonl/x.mp4", "y.mp4"], 2, "is the file that the batch writes"), ([".Batch/x.mp4", "y.mp4"], 2, "unfinished"),
        (["report.json/x.mp4", "y.mp4"], 2, "is the file that the batch writes"), (["x.mp4", "n" * 252 + ".mp4"], 3, "too long"),
        (["x.mp4", "\u00e4" * 126 + ".mp4"], 3, "too long"), (["x.mp4", "ab/" * 1400 + "x.mp4"], 3, "too long"),
    ],
    ids=["audio of a line", "capitals", "dots", "linked folder", "link", "hard link", "folder after file", "file after folder",
         "twice", "manifest", "ledger", "staging", "report", "long name", "long name in bytes", "long path"])
def test_video_is_written_over_nothing(files: Path, outs: list[str], line: int, words: str) -> None:
    (files / "in").mkdir()
    clip = files / "in" / "clip.mp4"
    clip.write_bytes((files / "voice.wav").read_bytes())
    (files / "link").symlink_to(files / "in", target_is_directory=True)
    (files / "soft.mp4").symlink_to(clip)
    os.link(clip, files / "hard.mp4")
    path = files / "jobs.mp4"
    path.write_text("image,audio,out\n" + "".join(f"face.jpg,in/clip.mp4,{out}\n" for out in outs))
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, files)
    assert caught.value.problems[0].line == line and words in caught.value.problems[0].text


def test_inputs_in_the_output_folder_are_fine_where_they_are_no_outputs(files: Path) -> None:
    path = files / "jobs.csv"
    path.write_text("image,audio,out\nface.jpg,voice.wav,voice.mp4\nface.jpg,voice.wav,sub/face.mp4\n")
    assert [i.out for i in read_manifest(path, files)] == ["voice.mp4", "sub/face.mp4"]


@pytest.mark.parametrize("name", [".batch/face.jpg", "report.json", "ledger.jsonl"])
def test_inputs_are_none_of_the_batchs_own_files(files: Path, name: str) -> None:
    (files / ".batch").mkdir()
    (files / name).write_bytes((files / "face.jpg").read_bytes())
    path = files / "jobs.csv"
    path.write_text(f"image,audio,out\n{name},voice.wav,a.mp4\n")
    with pytest.raises(InputError, match="line 2 reads"):
        read_manifest(path, files)


def test_ten_thousand_items_are_checked_in_seconds(files: Path) -> None:
    rows = "".join(f"face.jpg,voice.wav,s{n % 50}/{n}.mp4,{n}\n" for n in range(10_000))
    started = time.process_time()
    assert len(items("image,audio,out,seed\n" + rows, files)) == 10_000
    assert time.process_time() - started < 10


def test_portraits_are_paired_with_sounds_by_name(files: Path) -> None:
    faces, voices = files / "faces", files / "voices"
    faces.mkdir()
    voices.mkdir()
    for name in ("anna.jpg", "Ben.png"):
        (faces / name).write_bytes(b"x")
    for name in ("Anna.wav", "ben.mp3", "notes.txt"):
        (voices / name).write_bytes(b"x")
    paired = pair_up(pictures_in(faces), voices, {"seed": 3}, files / "out")
    assert {(i.out, i.audio.name, i.options.seed) for i in paired} == {("anna.mp4", "Anna.wav", 3), ("Ben.mp4", "ben.mp3", 3)}
    assert {i.audio for i in pair_up(pictures_in(faces), files / "voice.wav", {}, files / "out")} == {files / "voice.wav"}
    (voices / "ben.mp3").rename(voices / "carl.mp3")
    with pytest.raises(ManifestError) as caught:
        pair_up(pictures_in(faces), voices, {}, files / "out")
    assert "Ben.png" in str(caught.value) and "carl.mp3" in str(caught.value)
    (faces / "anna.png").write_bytes(b"x")
    with pytest.raises(InputError, match="one video"):
        pictures_in(faces)


def test_portraits_in_the_folder_of_the_videos(files: Path) -> None:
    (files / "face.mp4").write_bytes(b"sound")
    with pytest.raises(ManifestError, match=r"line 1: out: face.mp4: is the file that line 1 reads"):
        pair_up([files / "face.jpg"], files / "face.mp4", {}, files)
    assert [i.out for i in pair_up([files / "face.jpg"], files / "voice.wav", {}, files)] == ["face.mp4"]


def test_every_picture_of_a_folder_is_a_portrait_even_one_only_some_machines_read(tmp_path: Path) -> None:
    """An avif or a heic that cannot be read is told as an item's error; left out silently, nobody would miss it."""
    names = ["a.PNG", "b.avif", "c.heic", "d.jfif", "e.jxl", "f.webp"]
    for name in [*names, "notes.txt", ".hidden.png"]:
        (tmp_path / name).write_bytes(b"x")
    assert [p.name for p in pictures_in(tmp_path)] == names
