"""What may be chosen about one video, written once for the command line, batches and the library.

Imports in a millisecond (see inputs). Non-goals: what a model was made for (families.settings), where it runs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from .inputs import check_options


@dataclass(frozen=True, kw_only=True)
class AnimateOptions:
    """How one video is made; the defaults suit every portrait with one face.

    `face` counts from 0 row by row from the left, "all": every face speaks. `speaking`: auto (by loudness), speaking (always) or
    listening. `track`: the sound track of a file with several, from 0. `steps` None: as many denoising steps as the model was made
    for. `framing`: picture (the video is the picture, its long side at most `size`, 1024 if None) or face (a crop round the face
    whose longer side is `size`, 512 if None). `strict`: a face that will hardly talk well is refused.
    """

    seed: int = 0
    steps: int | None = None
    speaking: str = "auto"
    face: int | Literal["all"] | None = None
    track: int | None = None
    blinks: bool = True
    framing: str = "picture"
    size: int | None = None
    strict: bool = False

    def check(self) -> None:
        """InputError for what is out of range."""
        check_options(
            seed=self.seed, steps=self.steps, speaking=self.speaking, face=self.face, track=self.track, framing=self.framing,
            size=self.size)

    def to_dict(self) -> dict[str, Any]:
        """JSON types; options that came later are left out where they are not used, so that finished videos stay what they are."""
        later = {"track": self.track is None, "blinks": self.blinks, "size": self.size is None, "strict": not self.strict}
        return {name: value for name, value in asdict(self).items() if not later.get(name, False)}
