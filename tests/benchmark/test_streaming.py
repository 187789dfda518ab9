"""Streams are timed as they are used: after compilation, from the call to the first frame."""

import pytest

from vidjax import benchmark
from vidjax.errors import InputError


def test_report(tiny):
    """Frames of the window that fills the cache are left out; all that is measured is said."""
    report = benchmark.stream(tiny, (1.0, 5.0))
    assert report.lengths == (1.0, 5.0)
    assert len(report.causal) == len(report.windows) == 2
    assert len(report.frame_seconds) == 11 - 3
    assert min(*report.causal, *report.windows, *report.frame_seconds) > 0
    assert report.video_seconds == 0.5
    assert "first frame, frame by frame:" in str(report)
    assert "it plays for 0.50 s" in str(report)
    assert not tiny.config.sampling.causal, "the model is not said to be trained for it elsewhere"


def test_lengths_that_tell_nothing_are_refused(tiny):
    """Within the first window frames see more and more: their times rise."""
    with pytest.raises(InputError, match=r"must be 2\.125 at least"):
        benchmark.stream(tiny, (1.0,))
    with pytest.raises(InputError, match="duration=-1"):
        benchmark.stream(tiny, (4.0, -1.0))
