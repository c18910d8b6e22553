"""`python -m tm_core.train.corpus --out build/corpus`: speech, faces, held-out pictures and moving mouths, resumable; see docs/data.md.

Downloads (wheels, environments) go to `cache` beside the output. Next: `talking-machines train prepare`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from ...errors import InputError
from .check import report
from .clip_frames import make_clips
from .held_pictures import make_held
from .speech import make_speech
from .stills import make_faces

log = logging.getLogger(__name__)

PARTS = ("speech", "neural", "faces", "heads", "held", "clips")


def main(arguments: list[str] | None = None) -> int:
    """Make what is missing of a corpus; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tm_core.train.corpus", description="make the training corpora")
    parser.add_argument("--out", type=Path, default=Path("build/corpus"), help="folder of the corpus")
    parser.add_argument("--cache", type=Path, help="folder of downloads (default: `cache` beside the corpus)")
    parser.add_argument("--without", action="append", default=[], choices=PARTS, help="leave a part out; may be repeated")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cache = options.cache or options.out.parent / "cache"
    try:
        if "speech" not in options.without:
            make_speech(options.out / "speech", cache, with_neural="neural" not in options.without)
            log.info("%s", report(options.out / "speech"))
        if "faces" not in options.without:
            make_faces(options.out / "faces", cache, heads="heads" not in options.without)
        if "held" not in options.without:
            make_held(options.out / "held", cache)
        if "clips" not in options.without:
            make_clips(options.out / "clips", cache)
    except InputError as e:
        log.error("%s", e)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
