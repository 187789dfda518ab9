"""The texts of clips, one each or by the second, with what is said of the camera; and their seeds."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from vidjax.checks import number, whole
from vidjax.conditioning.camera import Camera, words
from vidjax.conditioning.movements import unposed
from vidjax.conditioning.poses import Poses
from vidjax.errors import InputError
from vidjax.model import Model

MAX_SECONDS = 86400

Prompt = str | Mapping[float, str]
"""What is to be seen; or by the seconds at which it changes, the first 0."""

Script = list[tuple[float, str]]
"""The seconds at which a prompt changes, from 0 on, and the prompts."""


def read_scripts(prompt: Prompt | Sequence[Prompt]) -> list[Script]:
    """That of each clip.

    Raises:
      InputError: something is no text, or does not begin at 0.
    """
    prompts = [prompt] if isinstance(prompt, str | Mapping) else prompt
    if not isinstance(prompts, list | tuple):
        raise InputError(f"prompt={prompt!r:.80}: must be text, or a list of texts")
    return [_script(each, prompt) for each in prompts]


def _script(prompt: Any, whole: Any) -> Script:
    texts = prompt if isinstance(prompt, Mapping) else {0.0: prompt}
    if not all(isinstance(text, str) for text in texts.values()):
        raise InputError(f"prompt={whole!r:.80}: must be text, or a list of texts")
    script = sorted((number("prompt's seconds", start, 0, MAX_SECONDS), text) for start, text in texts.items())
    if not script or script[0][0] != 0:
        raise InputError(f"prompt={prompt!r:.80}: by seconds it begins at 0, as in {{0: 'a red circle', 6.0: 'night'}}")
    return script


def tell_camera(model: Model, scripts: list[Script], camera: Camera | Poses, rays: bool) -> list[Script]:
    """The prompts with what the camera does at their end, as far as the model is not given its ``rays``.

    Raises:
      InputError: poses, which words cannot tell.
    """
    here = " frame by frame" if model.config.camera_adapter is not None else ""
    if isinstance(camera, Poses) and not rays:
        raise InputError(
            f"camera: {model.name} has no camera adapter{here} to be given poses by; a model trained with one can, and "
            "this one is told of movements in words, as in camera='pan left + zoom in'"
        )
    told = camera if not rays else None if isinstance(camera, Poses) else unposed(camera)
    if told is None:
        return scripts
    said = words(told)
    if not rays:
        warnings.warn(f"{model.name} has no input for the camera{here}: the prompt says {said!r}", stacklevel=3)
    return [[(start, f"{text}, {said}" if text else said) for start, text in script] for script in scripts]


def read_negatives(negative: str | Sequence[str], batch: int) -> tuple[str, ...]:
    """One for each of the ``batch`` clips.

    Raises:
      InputError: something is no text, or they are neither one nor as many.
    """
    negatives = (negative,) * batch if isinstance(negative, str) else negative
    if not isinstance(negatives, list | tuple) or not all(isinstance(text, str) for text in negatives):
        raise InputError(f"negative_prompt={negative!r:.80}: must be text, or a list of texts")
    if len(negatives) != batch:
        raise InputError(f"negative_prompt has {len(negatives)} texts for {batch} prompts: give one, or as many")
    return tuple(negatives)


def read_seeds(seed: int | Sequence[int], batch: int) -> tuple[int, ...]:
    """One for each of the ``batch`` clips: those given, or the numbers from the one given on.

    Raises:
      InputError: one is out of range, or they are not as many.
    """
    if isinstance(seed, list | tuple):
        if len(seed) != batch:
            raise InputError(f"seed has {len(seed)} numbers for {batch} prompts: give one, or as many")
        return tuple(whole("seed", s, 0, 2**63 - 1) for s in seed)
    first = whole("seed", seed, 0, 2**63 - batch)
    return tuple(first + i for i in range(batch))
