"""What a clip must be like to be kept: the thresholds, and the reasons for which one is dropped.

The paper (section 4) names its filters (PySceneDetect, aesthetics, RAFT motion, PaddleOCR, at least 4 s, SyncNet) but no
thresholds; these are ours, each explained where it is used. There is no aesthetics score: no such network comes in a
package, and size, steadiness and direction of the face stand in for it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from ...errors import InputError

SyncJudge = Literal["lips", "syncnet", "off"]
TextWhere = Literal["picture", "crop", "off"]

# reasons in the order in which they are looked for; the first one found is the one that is told
REASONS = {
    "broken": "the file cannot be read",
    "slow": "fewer frames a second than least_fps",
    "short": "a scene shorter than min_seconds",
    "no_face": "no face in part of it",
    "several_faces": "more than one large face",
    "small_face": "the face has too few pixels",
    "profile": "the face looks to the side",
    "unsteady_face": "the face jumps, leaves its crop or changes size",
    "still": "nothing moves: a still picture",
    "shaky": "head or lips move faster than a person's",
    "text": "text in the picture",
    "silent": "lips move but there is no speech to hear",
    "off_sync": "the sound is early or late",
    "not_speaking": "the lips do not follow the sound",
    "listener": "the lips rest, and listeners are not wanted",
}


def _rule(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class FootageConfig:
    """Thresholds. Extent: longer side of the box round the face's landmarks; gap: between the lips, of the face's height."""

    min_seconds: float = _rule(4.0, "shortest clip (paper: 4 s)")
    max_seconds: float = _rule(10.0, "longest clip; longer scenes become several")
    least_fps: float = _rule(20.0, "fewest frames a second: lips are not seen in fewer")
    scene_ratio: float = _rule(3.0, "a cut changes the picture this many times more than its neighbours do (PySceneDetect's own)")
    scene_change: float = _rule(15.0, "and by at least this much of 255 (PySceneDetect's own)")
    least_found: float = _rule(0.97, "share of frames in which the face is found")
    second_face: float = _rule(0.5, "a second face of this share of the first one's extent counts")
    most_second: float = _rule(0.15, "share of looks (one a second) that may see a second face")
    least_face_px: float = _rule(64.0, "median extent of the face in pixels of the source")
    most_turn: float = _rule(0.5, "median turn of the head: 0 frontal, 1 nose at the edge of the face")
    most_jump: float = _rule(0.25, "furthest move of the face between two frames, in extents")
    most_zoom: float = _rule(1.35, "largest extent over smallest (95th over 5th percentile)")
    most_outside: float = _rule(0.03, "share of frames in which part of the face is outside its crop")
    least_motion: float = _rule(0.003, "mean change of the face but for its place, size and tilt, in extents; less is a still picture")
    most_head_speed: float = _rule(1.0, "90th percentile of the head's speed, in extents a second")
    most_lip_spread: float = _rule(0.15, "standard deviation of the lip gap: more is a lost face")
    resting_lips: float = _rule(0.02, "lips that open no further than this (95th less 5th percentile of the gap) rest")
    text_where: str = _rule("picture", "where text is looked for: picture, crop (what training sees) or off")
    text_height: float = _rule(0.02, "least height of text that counts, of the picture's")
    least_speech: float = _rule(0.25, "share of a clip in which speech must be heard")
    sync: str = _rule("lips", "who judges sync: lips (and phones), syncnet (its bundled weights never saw footage), off")
    most_offset: int = _rule(2, "frames by which sound may be early or late")
    least_peak_r: float = _rule(0.4, "lips: least correlation of lip gap and heard opening within most_offset")
    least_lead: float = _rule(0.1, "lips: another offset must be this much better before the sound counts as early or late")
    least_sync_c: float = _rule(1.0, "syncnet: least Sync-C; the bundled weights give drawn clips 1.4, wrong sound 0.7")
    listeners: bool = _rule(True, "keep clips of a face whose lips rest, as Silence clips (paper section 3)")

    def __post_init__(self) -> None:
        _choice("sync", self.sync, get_args(SyncJudge))
        _choice("text_where", self.text_where, get_args(TextWhere))
        if not 0 < self.min_seconds <= self.max_seconds:
            raise InputError(
                "min_seconds", self.min_seconds, f"must be above 0 and at most max_seconds ({self.max_seconds:g})", "use 4 and 10")
        if self.max_seconds > 60:
            raise InputError("max_seconds", self.max_seconds, "a clip is held in memory: at most 60", "use 10")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def with_settings(base: FootageConfig, settings: list[str]) -> FootageConfig:
    """`base` with NAME=VALUE settings; InputError for an unknown name or a value of another kind."""
    values = base.to_dict()
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in values:
            raise InputError("--set", setting, "no such threshold", "see `talking-machines data thresholds`")
        values[name] = _parsed(setting, text, type(values[name]))
    return FootageConfig(**values)


def described() -> list[tuple[str, Any, str]]:
    """(name, default, what it means) of every threshold."""
    return [(f.name, f.default, f.metadata["help"]) for f in fields(FootageConfig)]


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(name, value, "unknown choice", f"choose one of {', '.join(known)}")


def _parsed(setting: str, text: str, kind: type) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError) as error:
        raise InputError("--set", setting, f"the value must be a {kind.__name__}", "give for example max_seconds=8") from error
