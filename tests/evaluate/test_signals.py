"""Each measure on clips whose figure is known without it."""

import numpy as np
import pytest

from vidjax.data.shapes import Scene, Subject, render
from vidjax.errors import InputError
from vidjax.evaluate.signals import bends, dynamic_degree, flicker, luma, psnr, ssim


def grey(*levels: float, size: int = 16) -> np.ndarray:
    """A clip of even frames."""
    return np.tile(np.array(levels, np.uint8)[:, None, None, None], (1, size, size, 3))


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_psnr():
    """One step of 255 everywhere is 48.1 dB."""
    np.testing.assert_allclose(psnr(np.zeros((2, 3), np.uint8), np.ones((2, 3), np.uint8)), 48.13, atol=0.01)


def test_ssim_of_equal_clips_is_one():
    """The scale's end, whatever is in the clip."""
    for clip in (noise((2, 20, 24, 3)), grey(0, 255), render(Scene(), 2, 32, 32)):
        np.testing.assert_allclose(ssim(clip, clip), 1.0, atol=1e-9)


def test_ssim_is_the_paper_s():
    """Equation 13 window by window, with variances taken as sums of squared deviations: another way to the number."""
    a = noise((2, 14, 13, 3))
    b = np.clip(a.astype(int) // 2 + noise(a.shape, 1) // 3, 0, 255).astype(np.uint8)
    at = np.arange(11) - 5
    weights = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for x, y in zip(luma(a), luma(b), strict=True):
        for i in range(14 - 10):
            for j in range(13 - 10):
                u, v = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
                mean_u, mean_v = (weights * u).sum(), (weights * v).sum()
                var_u, var_v = (weights * (u - mean_u) ** 2).sum(), (weights * (v - mean_v) ** 2).sum()
                both = (weights * (u - mean_u) * (v - mean_v)).sum()
                c1, c2 = 6.5025, 58.5225
                above = (2 * mean_u * mean_v + c1) * (2 * both + c2)
                values.append(above / ((mean_u**2 + mean_v**2 + c1) * (var_u + var_v + c2)))
    np.testing.assert_allclose(ssim(a, b), np.mean(values), rtol=1e-9)


def test_ssim_of_flat_clips():
    """Without structure only brightness is left: (2 a b + c1) / (a^2 + b^2 + c1)."""
    np.testing.assert_allclose(ssim(grey(100), grey(150)), (2 * 100 * 150 + 6.5025) / (100**2 + 150**2 + 6.5025))


def test_ssim_falls_with_blur():
    """What it is for: a blurred autoencoder is worse than one that only adds a little light."""
    clip = render(Scene((Subject("red", "star", "large"),)), 2, 64, 64)
    blurred = np.mean([np.roll(clip, (i, j), (1, 2)) for i in range(-2, 3) for j in range(-2, 3)], 0).astype(np.uint8)
    lighter = np.clip(clip.astype(int) + 4, 0, 255).astype(np.uint8)
    assert ssim(clip, blurred) < ssim(clip, lighter) < 1


@pytest.mark.parametrize("shapes", [((1, 10, 16, 3), (1, 10, 16, 3)), ((1, 16, 16, 3), (2, 16, 16, 3))])
def test_ssim_refuses(shapes):
    """A mean of nothing is no likeness."""
    with pytest.raises(InputError, match="ssim of"):
        ssim(*(np.zeros(shape, np.uint8) for shape in shapes))


def test_flicker_of_known_clips():
    """What goes back counts by how far it does; what goes on, or stays, does not."""
    assert flicker(grey(0, 40, 0, 40, 0)) == 40
    assert flicker(grey(255, 0, 255)) == 255
    assert flicker(grey(100, 130, 120)) == 10, "of the change, what is taken back"
    for steady in ((0, 10, 20, 30), (30, 20, 10, 0), (0, 0, 200, 200), (7, 7, 7)):
        assert flicker(grey(*steady)) == 0


def test_motion_is_not_flicker():
    """A model that moves things must not pass for one that flickers: that would reward stillness."""
    moving = np.zeros((9, 16, 32, 3), np.uint8)
    for t in range(9):
        moving[t, 4:12, 2 * t : 2 * t + 12] = 200
    trembling = moving[[0, 1] * 4]
    assert flicker(moving) == 0
    assert flicker(trembling) == dynamic_degree(trembling) == dynamic_degree(moving) > 0
    world = render(Scene((Subject(),), "moves right", camera="pans left"), 17, 64, 64)
    noisy = np.clip(world + np.random.default_rng(0).normal(0, 8, world.shape), 0, 255).astype(np.uint8)
    assert flicker(world) < dynamic_degree(world) / 2
    assert flicker(noisy) > 2 * flicker(world)


def test_dynamic_degree():
    """In levels, direction or not."""
    assert dynamic_degree(grey(10, 20, 10)) == 10
    assert dynamic_degree(grey(5, 5)) == 0


def test_bends():
    """A jump shows on both sides of it, a steady change nowhere."""
    np.testing.assert_array_equal(bends(grey(0, 10, 20, 80, 90, 100))[1:-1], [0, 25, 25, 0])
    assert np.isnan(bends(grey(1, 2, 3))[[0, -1]]).all()
