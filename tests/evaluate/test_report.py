"""Intervals against hand-worked values, and a table that can be read."""

import math

import numpy as np
import pytest

from vidjax.evaluate.report import Report, mean_interval, ratio_interval, wilson


def test_wilson():
    """From Wilson's formula, worked by hand for 8 of 10."""
    np.testing.assert_allclose(wilson(8, 10), (0.4902, 0.9433), atol=1e-4)
    assert wilson(10, 10)[1] == 1.0
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[0] < 0.75, "ten of ten prove little"


def test_mean_interval():
    """1, 2, 3, 4: mean 2.5, standard deviation 1.118, over the root of 4."""
    np.testing.assert_allclose(mean_interval([1, 2, 3, 4]), (2.5 - 1.0957, 2.5 + 1.0957), atol=1e-4)


def test_ratio_interval():
    """As often as it says the true ratio must lie within; and what does not vary is certain."""
    assert ratio_interval([2, 4], [1, 2]) == (2.0, (2.0, 2.0))
    assert ratio_interval([0, 0], [0, 0]) == (1.0, (1.0, 1.0))
    assert ratio_interval([1, 0], [0, 0])[0] == math.inf
    rng, hits = np.random.default_rng(0), 0
    for _ in range(1000):
        below = rng.uniform(1, 3, 50)
        _, (low, high) = ratio_interval((1.5 * below + rng.normal(0, 0.5, 50)).tolist(), below.tolist())
        hits += low <= 1.5 <= high
    assert hits / 1000 == pytest.approx(0.95, abs=0.025)


def test_table():
    """Shares in percent, the others in their units, nothing where there is no ceiling."""
    names = ("place", "flicker", "autoencoder_ssim", "autoencoder_psnr", "joint_flicker")
    report = Report(
        dict(zip(names, (0.9, 3.25, 0.8125, 24.0, 1.5), strict=True)),
        {"place": 1.0, "flicker": 1.5, "joint_flicker": 1.0},
        {"place": 0.95, "flicker": 2.0},
        dict(zip(names, ((0.8, 0.95), (3.0, 3.5), (0.8, 0.9), (23.0, 25.0), (1.2, 1.8)), strict=True)),
        dict.fromkeys(names, 200),
    )
    lines = report.table().splitlines()
    assert lines[0].split() == ["score", "95", "%", "interval", "autoencoder", "rendered", "clips"]
    assert " ".join(lines[1].split()) == "place 90.0% 80.0% to 95.0% 95.0% 100.0% 200"
    assert " ".join(lines[2].split()) == "flicker 3.25 3.00 to 3.50 of 255 2.00 1.50 200"
    assert " ".join(lines[3].split()) == "autoencoder_ssim 0.812 0.800 to 0.900 of 1 200"
    assert " ".join(lines[4].split()) == "autoencoder_psnr 24.00 23.00 to 25.00 dB 200"
    assert " ".join(lines[5].split()) == "joint_flicker 1.50 1.20 to 1.80 times 1.00 200"
    assert len({len(line) for line in lines}) == 1, "columns stand under their headings"
