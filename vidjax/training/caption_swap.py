"""The gauge of a text-to-video training: how much worse the model gets when one word of the caption is wrong.

It shows which words a model uses long before samples do; the plain loss does not.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from vidjax.data.shapes import Scene, actions_with, caption
from vidjax.data.source import SceneData
from vidjax.training.flow_matching import BatchVelocity, held_out_losses, mean_loss
from vidjax.training.probe import SCENE, SUBJECT
from vidjax.training.samples import Row, stack
from vidjax.typing import Array, Params

SWAP_TIME = 0.8
"""Diffusion time of the swap test: noisy enough that the words decide what there is to see."""

EXCHANGED = ("colour", "shape")
"""What two subjects exchange, to see whether a model knows which word belongs to which."""


def swapped(scene: Scene, factor: str, rng: np.random.Generator) -> Scene:
    """The scene with one factor (of the first subject, or of the scene) changed to another value."""
    words = SUBJECT.get(factor) or SCENE[factor]
    subject = scene.subjects[0]
    now = getattr(subject if factor in SUBJECT else scene, factor)
    if factor == "action":
        words = actions_with(scene.camera)
    others = [word for word in words if word != now and word not in {s.colour for s in scene.subjects}]
    other = others[rng.integers(len(others))]
    if factor in SUBJECT:
        return dataclasses.replace(
            scene, subjects=(dataclasses.replace(subject, **{factor: other}), *scene.subjects[1:])
        )
    return dataclasses.replace(scene, **{factor: other})


def exchanged(scene: Scene, factor: str) -> Scene:
    """A scene of two subjects in which each has the other's colour, shape or size."""
    one, other = scene.subjects
    both = (
        dataclasses.replace(mine, **{factor: getattr(theirs, factor)}) for mine, theirs in ((one, other), (other, one))
    )
    return dataclasses.replace(scene, subjects=tuple(both))


def evaluate(
    velocity: BatchVelocity,
    params: Params,
    data: SceneData,
    caption_row: Row,
    examples: Sequence[dict[str, Any]],
    key: Array,
    causal: bool = False,
) -> dict[str, float]:
    """On held-out ``examples`` of one shape: the loss in bands of diffusion time, also that of ``causal`` steps where
    there are some; and ``swap_FACTOR``, the rise of the loss at ``SWAP_TIME`` in percent when that factor's word is
    wrong. Of scenes of two ``exchange_FACTOR`` is the same where each subject has the other's word: a model that takes
    a caption for a set of words has 0."""
    scenes = [data.scene(example) for example in examples]
    latents = np.stack([example["latents"] for example in examples]).astype(np.float32)
    pairs = [i for i, scene in enumerate(scenes) if len({subject.shape for subject in scene.subjects}) == 2]

    def batches(scenes: list[Scene], latents: np.ndarray = latents) -> list[dict[str, Any]]:
        # The same random choice of words on both sides of a comparison.
        rows = [caption_row(caption(scene, np.random.default_rng(i))) for i, scene in enumerate(scenes)]
        return [{"latents": latents, **stack(rows)}]

    scores = held_out_losses(velocity, params, batches(scenes), key, causal)
    loss = functools.partial(mean_loss, velocity, params, key=key, time=SWAP_TIME)
    for factor in (*SUBJECT, *SCENE):
        wrong = [swapped(scene, factor, np.random.default_rng(i)) for i, scene in enumerate(scenes)]
        scores[f"swap_{factor}"] = 100.0 * (loss(batches(wrong)) / scores[f"loss_{SWAP_TIME}"] - 1.0)
    if not pairs:
        return scores
    right = loss(batches([scenes[i] for i in pairs], latents[pairs]))
    for factor in EXCHANGED:
        wrong = loss(batches([exchanged(scenes[i], factor) for i in pairs], latents[pairs]))
        scores[f"exchange_{factor}"] = 100.0 * (wrong / right - 1.0)
    return scores
