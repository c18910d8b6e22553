"""A live avatar: every sample with its frame, speech in any pace, interruption, and nothing of one session in another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soxr

from tm_core import talk
from tm_core.errors import InputError
from tm_core.live.avatar import TRANSITIONS, AvatarOptions, LiveAvatar, LivePair
from tm_core.media.audio_io import read_audio
from tm_core.media.image_io import open_image
from tm_core.model.talking import TalkingModel
from tm_core.weights.loading import load_model

RATE, FRAME = 48000, 1920


@pytest.fixture(scope="module")
def model() -> TalkingModel:
    return load_model()


@pytest.fixture(scope="module")
def portrait(model: TalkingModel, assets: Path) -> talk.Portrait:
    return talk.prepare_portrait(open_image(assets / "portraits" / "demo.jpg"), model.config)


@pytest.fixture(scope="module")
def speech(assets: Path) -> np.ndarray:
    return read_audio(next((assets / "speech").glob("*.wav"))).samples[: 16000 * 2]


@pytest.fixture
def avatar(model: TalkingModel, portrait: talk.Portrait) -> Iterator[LiveAvatar]:
    with LiveAvatar(model, portrait, AvatarOptions(size=160)) as session:
        assert session.wait_ready()
        yield session


def taken(avatar: LiveAvatar, count: int, before: Callable[[int], None] = lambda _: None) -> list[LivePair]:
    """So many pairs, each as soon as it is ready: no machine is too slow for that."""
    pairs = []
    for i in range(count):
        before(i)
        until = time.monotonic() + 60
        while avatar.lead_s == 0 and time.monotonic() < until:
            time.sleep(0.002)
        pairs.append(avatar.take())
    assert not any(p.held for p in pairs)
    return pairs


def spoken(pairs: list[LivePair]) -> np.ndarray:
    return np.concatenate([p.samples for p in pairs if p.answer is not None])


def lips(avatar: LiveAvatar, pairs: list[LivePair]) -> np.ndarray:
    """(T,) how different the mouth looks from the portrait's, in grey levels."""
    x, y = avatar._view.landmarks[[61, 291, 0, 17], :2].round().astype(int).T
    frames = np.stack([p.frame for p in pairs])[:, y.min() - 4 : y.max() + 12, x.min() - 2 : x.max() + 2].astype(float)
    still = avatar._view.picture[y.min() - 4 : y.max() + 12, x.min() - 2 : x.max() + 2]
    return np.asarray(np.abs(frames - still).mean((1, 2, 3)))


def test_a_burst_is_heard_sample_by_sample_and_the_lips_move(avatar: LiveAvatar, speech: np.ndarray) -> None:
    def say(i: int) -> None:
        if i == 12:
            avatar.push_audio(speech, 16000)
            avatar.end_of_speech()

    pairs = taken(avatar, 90, say)
    assert [p.pts for p in pairs] == list(range(90)) and all(p.samples.shape == (FRAME,) for p in pairs)
    begun = next(i for i, p in enumerate(pairs) if p.answer is not None)
    assert 12 <= begun <= 12 + 12 + 5  # behind what was ready, which a chunk that is made anew may shorten
    true = soxr.resample(speech, 16000, RATE)
    heard = spoken(pairs)
    assert 0 <= len(heard) - len(true) <= 4 * FRAME
    assert np.abs(heard[: len(true)] - true)[:-64].max() < 1e-3 and not heard[len(true) + 64 :].any()
    assert all(not p.samples.any() for p in pairs if p.answer is None)
    moving = lips(avatar, pairs)
    says = np.array([p.answer is not None for p in pairs])
    assert moving[says].std() > 3 * moving[:12].std()
    assert pairs[begun + 9].position_s == pytest.approx(10 / 25)


def test_speech_as_it_is_spoken_has_no_gaps(avatar: LiveAvatar, speech: np.ndarray) -> None:
    """Pushed in pieces of 20 ms, one and a bit ahead of every frame that is taken."""
    pieces = iter([speech[i : i + 320] for i in range(0, len(speech), 320)])

    def say(i: int) -> None:
        for _ in range(8 if i == 5 else 2 if i > 5 else 0):
            if (piece := next(pieces, None)) is None:
                avatar.end_of_speech()
                return
            avatar.push_audio(piece, 16000)

    pairs = taken(avatar, 90, say)
    says = [p.answer is not None for p in pairs]
    first, last = says.index(True), len(says) - says[::-1].index(True)
    assert all(says[first:last])
    true = soxr.resample(speech, 16000, RATE)
    heard = spoken(pairs)
    assert np.corrcoef(heard[: len(true)], true)[0, 1] > 0.999


def test_late_speech_is_waited_for_then_the_face_listens_and_nothing_is_lost(avatar: LiveAvatar, speech: np.ndarray) -> None:
    avatar.push_audio(speech[:8000], 16000)
    first = taken(avatar, 40)
    assert avatar.state == "waiting" and first[-1].answer is None
    avatar.push_audio(speech[8000:], 16000)
    avatar.end_of_speech()
    pairs = [*first, *taken(avatar, 60)]
    assert avatar.state == "listening"
    true = soxr.resample(speech, 16000, RATE)
    assert np.corrcoef(spoken(pairs)[: len(true)], true)[0, 1] > 0.999


def test_an_interruption_ends_sound_and_lips_and_says_where(avatar: LiveAvatar, speech: np.ndarray) -> None:
    avatar.push_audio(np.tile(speech, 3), 16000)
    avatar.end_of_speech()
    pairs = taken(avatar, 45)
    assert pairs[-1].answer == 1
    done = avatar.interrupt()
    assert done.answer == 1 and done.position_s == pytest.approx(len([p for p in pairs if p.answer is not None]) / 25)
    after = taken(avatar, 40)
    old = np.concatenate([p.samples for p in after])
    assert all(p.answer is None and p.epoch == 1 for p in after)
    assert not old[round(0.011 * RATE) :].any()  # ten milliseconds to fade in
    moving = lips(avatar, [*pairs, *after])
    rest = np.median(moving[len(pairs) + 20 :])
    assert np.abs(moving[len(pairs) + 10 :] - rest).max() < 0.5 * np.abs(moving[20:45] - rest).max()
    steps = np.abs(np.diff(np.stack([p.frame for p in (*pairs[-3:], *after[:8])]).astype(float), axis=0)).mean((1, 2, 3))
    assert steps.max() < 4 * max(1.0, np.median(steps))  # no jump where the stream goes on
    avatar.push_audio(speech, 16000)
    avatar.end_of_speech()
    again = taken(avatar, 80)
    true = soxr.resample(speech, 16000, RATE)
    assert {p.answer for p in again} == {None, 2} and np.corrcoef(spoken(again)[: len(true)], true)[0, 1] > 0.999
    assert avatar.interrupt().answer is None


def test_an_interruption_counts_all_that_was_heard_since_the_last(avatar: LiveAvatar, speech: np.ndarray) -> None:
    """Agents tell a server what was heard of several things said: in whole, in part, not at all."""
    avatar.push_audio(speech[:8100], 16000)  # 0.50625 s: its last frame is not full
    avatar.end_of_speech()
    taken(avatar, 45)
    assert avatar.state == "listening"
    avatar.push_audio(speech[:24000], 24000)
    avatar.end_of_speech()
    pairs = taken(avatar, 25)
    part = sum(p.answer is not None for p in pairs) / 25
    assert 0.1 < part < 1.0
    done = avatar.interrupt()
    assert done.heard_s == pytest.approx(8100 / 16000 + part, abs=2e-4) and done.position_s == pytest.approx(part)
    assert avatar.interrupt().heard_s == 0
    taken(avatar, 20)
    avatar.push_audio(speech[:16000], 16000)
    assert avatar.interrupt().heard_s == 0  # nothing of it was shown
    taken(avatar, 10)
    avatar.push_audio(speech[:4000], 16000)  # it does not end, and nothing follows: the face waits
    taken(avatar, 40)
    done = avatar.interrupt()
    assert done.answer is None and 0.15 < done.heard_s <= 0.25


def test_without_a_frame_the_last_one_is_held_in_silence(model: TalkingModel, portrait: talk.Portrait) -> None:
    session = LiveAvatar(model, portrait, AvatarOptions(size=96))
    pair = session.take()  # nothing runs yet
    assert pair.held and not pair.samples.any() and pair.frame.shape == (96, 96, 3)
    with session:
        assert session.wait_ready() and session.every == 2  # it was late: half of the frames for a while
        assert len({p.pts for p in taken(session, 12)}) == 12
    session.close()  # again
    for call in (session.take, lambda: session.push_audio(np.zeros(10, np.float32), 16000)):
        with pytest.raises(InputError, match="closed"):
            call()


def test_who_waits_for_a_session_that_closes_waits_no_longer(model: TalkingModel, portrait: talk.Portrait) -> None:
    """A caller who hangs up at once would hold a thread for a minute."""
    session, found = LiveAvatar(model, portrait, AvatarOptions(size=96)), list[bool]()
    waiting = threading.Thread(target=lambda: found.append(session.wait_ready()))  # nothing runs: it is never ready
    waiting.start()
    session.close()
    waiting.join(5)
    assert found == [False]


def test_sessions_at_once_do_not_touch_each_other(model: TalkingModel, portrait: talk.Portrait, speech: np.ndarray) -> None:
    with LiveAvatar(model, portrait, AvatarOptions(size=96)) as one, LiveAvatar(model, portrait, AvatarOptions(size=96)) as other:
        assert one.wait_ready() and other.wait_ready()
        one.push_audio(speech, 16000)
        one.end_of_speech()
        for _ in range(40):
            mine, theirs = taken(one, 1), taken(other, 1)
            assert not theirs[0].samples.any() and theirs[0].answer is None
        assert mine[0].answer == 1


def test_states_only_go_where_the_table_says(avatar: LiveAvatar) -> None:
    assert set(TRANSITIONS) == {"listening", "speaking", "waiting", "closed"} and TRANSITIONS["closed"] == ()
    with pytest.raises(RuntimeError, match="cannot go from listening to waiting"):
        avatar._move("waiting")


def test_an_error_of_a_worker_reaches_whoever_takes(model: TalkingModel, portrait: talk.Portrait, monkeypatch: pytest.MonkeyPatch) -> None:
    session = LiveAvatar(model, portrait, AvatarOptions(size=96))

    def broken(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(session._sampler, "step", broken)
    with session:
        assert not session.wait_ready(20)
        with pytest.raises(MemoryError, match="no room"):
            session.take()
