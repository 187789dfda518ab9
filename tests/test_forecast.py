"""What is said before a clip is made must be what comes."""

import jax
import pytest

import vidjax
from vidjax.forecast import memory, outline
from vidjax.parallel import make_mesh
from vidjax.request import make_request

PROMPT = "a small red circle moves right on grass"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "1 window of 9 frames, 3 steps each: 9 of 32x16, 1.1 s"),
        ({"num_frames": 5}, "1 window of 5 frames, 3 steps each: 5 of 32x16, 0.6 s"),
        ({"num_frames": 21, "num_inference_steps": 7}, "4 windows of 9 frames, 7 steps each: 21 of 32x16, 2.6 s"),
    ],
)
def test_outline(tiny, asked, said):
    """A wrong number of windows is a wrong idea of the time that it takes."""
    assert outline(make_request(tiny, PROMPT, **asked)) == said


def test_memory_is_that_of_a_window(tiny):
    """It holds at least the parameters and the latents, grows with the picture, and not with the clip's length."""
    parameters = sum(x.nbytes for x in jax.tree.leaves(tiny.params))
    small = memory(tiny, make_request(tiny, PROMPT))
    assert small.parameters == parameters
    assert min(small.sampling, small.decoding) > parameters
    assert memory(tiny, make_request(tiny, PROMPT, num_frames=101)) == small
    large = memory(tiny, make_request(tiny, PROMPT, height=64))
    assert large.sampling > small.sampling
    assert large.decoding > small.decoding


def test_memory_is_that_of_a_device(tiny_folder, tiny):
    """On a mesh parameters are split: the sum over devices would turn away what fits."""
    spread = vidjax.load(tiny_folder, mesh=make_mesh(data=-1, fsdp=2))
    assert memory(spread, make_request(spread, PROMPT)).parameters < sum(x.nbytes for x in jax.tree.leaves(tiny.params))
