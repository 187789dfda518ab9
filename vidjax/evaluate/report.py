"""Scores with their intervals, beside what can be reached."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

UNITS = {
    "first_frame_psnr": "dB",
    "autoencoder_psnr": "dB",
    "autoencoder_ssim": "of 1",
    "flicker": "of 255",
    "dynamic_degree": "of 255",
    "joint_flicker": "times",
}
"""Of the scores that are no shares."""

Z = 1.96
"""Standard deviations to either side that hold 95 % of a normal distribution."""


class Row(NamedTuple):
    """A score in words, for a table."""

    name: str
    score: str
    interval: str
    autoencoder: str
    rendered: str
    clips: str


HEADER = Row("", "score", "95 % interval", "autoencoder", "rendered", "clips")


@dataclasses.dataclass(frozen=True)
class Report:
    """Scores by name, each with its 95 % interval: shares from 0 to 1, or in the ``UNITS`` of that name.

    ``ceilings`` are the same measures of renderings of the same prompts: what the detectors see there, and how much
    right clips flicker and move. ``reconstructed`` those of the renderings after the autoencoder: about what a perfect
    denoiser would reach. ``counts``: how many clips a score is of.
    """

    scores: dict[str, float]
    ceilings: dict[str, float]
    reconstructed: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    counts: dict[str, int]

    def rows(self) -> list[Row]:
        """One for each score."""
        rows = []
        for name, score in self.scores.items():
            low, high = (_text(name, value) for value in self.intervals[name])
            limits = (_text(name, side[name]) if name in side else "" for side in (self.reconstructed, self.ceilings))
            unit = f" {UNITS[name]}" if name in UNITS else ""
            rows.append(Row(name, _text(name, score), f"{low} to {high}{unit}", *limits, str(self.counts[name])))
        return rows

    def table(self) -> str:
        """A heading, and one line for each score."""
        lines = [
            f"{row.name:18} {row.score:>7}  {row.interval:23} {row.autoencoder:>11} {row.rendered:>9} {row.clips:>6}"
            for row in (HEADER, *self.rows())
        ]
        return "\n".join(lines)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927)."""
    share = successes / trials
    middle = (share + Z * Z / (2 * trials)) / (1 + Z * Z / trials)
    half = Z / (1 + Z * Z / trials) * math.sqrt(share * (1 - share) / trials + Z * Z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean, as if it were normal."""
    mean, half = float(np.mean(values)), Z * float(np.std(values)) / math.sqrt(len(values))
    return mean - half, mean + half


def ratio_interval(above: Sequence[float], below: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Ratio of two means of the same clips, and its 95 % interval by linearization (Cochran, 1977).

    1 where both are 0: nothing happens here as there.
    """
    a, b = np.asarray(above, float), np.asarray(below, float)
    if not b.any():
        ratio = math.inf if a.any() else 1.0
        return ratio, (ratio, ratio)
    ratio = float(a.mean() / b.mean())
    half = Z * float(np.sqrt(np.mean((a - ratio * b) ** 2) / len(a)) / b.mean())
    return ratio, (max(0.0, ratio - half), ratio + half)


def _text(name: str, value: float) -> str:
    return f"{value:.1%}" if name not in UNITS else f"{value:.{3 if name.endswith('ssim') else 2}f}"
