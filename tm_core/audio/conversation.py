"""One mixed sound of a conversation, and for every speaker that sound with the others' turns silenced.

A face then hears its own words only, so it cannot mouth another's. Where two speak at once both hear the mixture: nothing
here takes voices apart. Edges fade inside the turn, so nothing of a neighbour's turn is left. Non-goals: mixing, finding
out who speaks.

Shapes: C channels, n samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .turns import Span, SpeakingTurns, merged, without

Floats = NDArray[np.float32]
MARGIN_S = 0.05  # diarisation cuts words short: into pauses, a turn reaches this far
FADE_S = 0.01  # no click


def own_spans(turns: SpeakingTurns, name: str, duration_s: float, margin_s: float = MARGIN_S) -> tuple[Span, ...]:
    """When a speaker is heard: the own turns, widened by `margin_s` where nobody else speaks."""
    own = [(start, min(end, duration_s)) for start, end in turns.inside(name, duration_s)]
    others = (span for other in turns.names if other != name for span in turns.spans(other))
    wide = without(((max(0.0, start - margin_s), min(end + margin_s, duration_s)) for start, end in own), others)
    return merged((*own, *wide))


def gain_of(spans: Sequence[Span], count: int, sample_rate: int, fade_s: float = FADE_S) -> Floats:
    """Gain (n,) that is 1 in the spans and 0 outside, rising and falling inside them; the ends of the sound do not fade."""
    gain = np.zeros(count, np.float32)
    for start, end in spans:
        low, high = max(0, round(start * sample_rate)), min(count, round(end * sample_rate))
        ramp = _ramp(min(round(fade_s * sample_rate), (high - low) // 2))
        gain[low:high] = 1.0
        if low > 0:
            gain[low : low + len(ramp)] = ramp
        if high < count:
            gain[high - len(ramp) : high] = ramp[::-1]
    return gain


def _ramp(count: int) -> Floats:
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / max(count, 1)), np.float32)


def split_conversation(
    samples: Floats, sample_rate: int, turns: SpeakingTurns, names: Sequence[str], *, margin_s: float = MARGIN_S, fade_s: float = FADE_S,
) -> list[Floats]:
    """For each name the sound (C, n) or (n,) as that speaker's face hears it; InputError for a turn after its end."""
    count = samples.shape[-1]
    spans = [own_spans(turns, name, count / sample_rate, margin_s) for name in names]
    return [samples * gain_of(own, count, sample_rate, fade_s) for own in spans]
