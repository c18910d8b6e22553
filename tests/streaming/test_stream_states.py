"""A LatentStream under any order of pulls, cancels, failures, releases and sinks that come and go: whole, and no state left behind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.streaming.test_handles import Counting, content, stream_of
from tm_core.errors import Cancelled
from tm_core.streaming.cancel import CancelToken

CHUNKS, SINKS = 5, 2


class LatentStreams(RuleBasedStateMachine):
    """Two sinks on one stream; what each has been given so far is checked against the contents of the chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.source = Counting()
        self.stream = stream_of(self.source, CHUNKS)
        self.tokens = [CancelToken() for _ in range(SINKS)]
        self.readers = [self.stream.chunks(token) for token in self.tokens]
        self.taken = [0] * SINKS

    def again(self, sink: int) -> None:
        """A new reader in the place of one that has ended."""
        self.tokens[sink] = CancelToken()
        self.readers[sink], self.taken[sink] = self.stream.chunks(self.tokens[sink]), 0

    @rule(sink=st.integers(0, SINKS - 1))
    def pull(self, sink: int) -> None:
        """The next chunk is the next in order, whoever sampled it."""
        try:
            chunk = next(self.readers[sink], None)
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            self.again(sink)
            return
        if chunk is None:
            assert self.taken[sink] == CHUNKS
            self.again(sink)
            return
        assert chunk.index == self.taken[sink] and torch.equal(chunk.latents, content(chunk.index))
        self.taken[sink] += 1

    @rule(sink=st.integers(0, SINKS - 1))
    def cancel(self, sink: int) -> None:
        """A cancelled sink says so at its next pull, unless it has all."""
        self.tokens[sink].cancel()
        if self.taken[sink] < CHUNKS:
            with pytest.raises(Cancelled):
                next(self.readers[sink])
        self.readers[sink].close()
        self.again(sink)

    @rule(sink=st.integers(0, SINKS - 1))
    def leave(self, sink: int) -> None:
        """One that merely stops pulling."""
        self.readers[sink].close()
        self.again(sink)

    @rule(at=st.integers(0, CHUNKS - 1))
    def fail(self, at: int) -> None:
        """The source fails at this chunk the next time it is sampled."""
        self.source.fail_at = at

    @rule()
    def release(self) -> None:
        """Everything is given back; whoever goes on samples anew."""
        self.stream.release()
        assert self.stream.available == 0 and not self.stream.holds_state

    @rule()
    def release_state(self) -> None:
        """The sampler's memory alone."""
        kept = self.stream.available
        self.stream.release_state()
        assert self.stream.available == kept and not self.stream.holds_state

    @precondition(lambda self: self.source.fail_at is None)
    @rule()
    def drain(self) -> None:
        """A sink of its own gets all of it."""
        assert [chunk.index for chunk in self.stream] == list(range(CHUNKS))

    @invariant()
    def nothing_is_kept_that_is_done_with(self) -> None:
        """A complete stream holds no state; what is kept is never more than there is."""
        assert self.stream.available <= CHUNKS
        assert not (self.stream.available == CHUNKS and self.stream.holds_state)

    def teardown(self) -> None:
        """Readers end before the next example."""
        for reader in self.readers:
            reader.close()


LatentStreams.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
TestLatentStreams = LatentStreams.TestCase
