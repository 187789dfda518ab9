"""Captions of the shapes world: from a scene to a sentence in common words, and back."""

import re
from collections.abc import Collection
from itertools import product

import numpy as np

from vidjax.data.shapes.scene import COLOURS, SHAPES, SIZES, Scene, Subject
from vidjax.errors import InputError

SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}

ACTION_PHRASES = {
    "moves left": ("moves left", "drifts to the left", "glides left"),
    "moves right": ("moves right", "drifts to the right", "glides right"),
    "moves up": ("moves up", "drifts up", "rises"),
    "moves down": ("moves down", "drifts down", "sinks"),
    "bounces": ("bounces", "bounces up and down", "hops up and down"),
    "spins": ("spins", "rotates", "spins around"),
    "grows": ("grows", "gets bigger", "grows larger"),
    "shrinks": ("shrinks", "gets smaller"),
    "stays still": ("stays still", "does not move", "rests"),
}
"""Said of one subject; of two the verb loses its s."""

PLACE_PHRASES = {
    "grass": ("on grass", "in a meadow", "across a field"),
    "desert": ("in the desert", "on sand", "among dunes"),
    "snow": ("in the snow", "on snow", "in winter"),
    "night": ("at night", "under the moon", "in the dark"),
    "sea": ("at sea", "on the ocean", "over water"),
}

CAMERA_PHRASES = {
    "static": ("static camera", "the camera is fixed"),
    "pans left": ("the camera pans left", "pan left", "camera panning to the left"),
    "pans right": ("the camera pans right", "pan right", "camera panning to the right"),
    "tilts up": ("the camera tilts up", "tilt up", "camera tilting up"),
    "tilts down": ("the camera tilts down", "tilt down", "camera tilting down"),
    "zooms in": ("the camera zooms in", "zoom in", "slow zoom in"),
    "zooms out": ("the camera zooms out", "zoom out", "slow zoom out"),
    "tracking": ("tracking shot", "the camera follows"),
    "aerial": ("aerial view", "seen from above"),
}

STYLE_PHRASES = {
    "plain": ("plain style", "simple style"),
    "cinematic": ("cinematic style", "cinematic", "film look"),
    "anime": ("anime style", "anime", "drawn as anime"),
    "watercolor": ("watercolor style", "watercolor painting", "painted in watercolor"),
    "documentary": ("documentary style", "documentary", "documentary footage"),
}

UNSAID = 0.6
"""How often a caption leaves out a static camera, or the plain style."""

SHOWN_PHRASES = ("it", "the subject", "the {size} one")
"""Said in place of a subject's colour and shape where a picture shows these."""

SHOTS = ("tracking", "aerial")
"""Cameras that are not told by where they stand and look."""

_PLURAL_VERBS = {"does": "do", "rises": "rise", "bounces": "bounce", "rotates": "rotate", "moves": "move"}


def caption(scene: Scene, rng: np.random.Generator, untold: Collection[str] = ()) -> str:
    """One of the sentences that tell the scene's factors; which one is `rng`'s choice.

    `untold` is what it leaves out. Some is shown otherwise: the `subject` of a scene of one (its colour and shape, and
    perhaps its size) and the `style`, by pictures; the `camera`, by its path, but for `SHOTS`, of which a path does not
    tell enough. Or it may be anything, as in what people write: the `size`, the `action`, the `place`.
    """

    def pick(phrases):
        return phrases[rng.integers(len(phrases))]

    if "subject" in untold:
        (subject,) = scene.subjects
        subjects = pick(SHOWN_PHRASES).format(size=pick(SIZE_WORDS[subject.size]))
    elif "size" in untold:
        subjects = " and ".join(f"{_article(s.colour)} {s.colour} {s.shape}" for s in scene.subjects)
    else:
        subjects = " and ".join(f"a {pick(SIZE_WORDS[s.size])} {s.colour} {s.shape}" for s in scene.subjects)
    action = pick(ACTION_PHRASES[scene.action])
    if len(scene.subjects) > 1:
        action = _plural(action)
    place = pick(PLACE_PHRASES[scene.place])
    happens = subjects if "action" in untold else f"{subjects} {action}"
    parts = [f"{place}, {happens}" if rng.random() < 0.2 else f"{happens} {place}"]
    if "place" in untold:
        parts = [happens]
    if "style" not in untold and (scene.style != "plain" or rng.random() >= UNSAID):
        parts.insert(rng.integers(2), pick(STYLE_PHRASES[scene.style]))
    told = scene.drift is None and ("camera" not in untold or scene.camera in SHOTS)
    if told and (scene.camera != "static" or rng.random() >= UNSAID):
        parts.insert(rng.integers(len(parts) + 1), pick(CAMERA_PHRASES[scene.camera]))
    return ", ".join(parts)


def parse(caption: str) -> Scene:
    """The scene a caption tells of; what it does not say has `Scene`'s defaults.

    Understands every sentence of `caption` and some more common words; skips words it does not know, and of two
    places (cameras, ...) takes the first. Raises `InputError` when it understands nothing, or more than two subjects.
    """
    words = re.findall(r"[a-z]+", caption.lower())
    found: dict[str, str] = {}
    subjects: list[Subject] = []
    described: dict[str, str] = {}
    start = 0
    while start < len(words):
        for length in range(min(_LONGEST, len(words) - start), 0, -1):
            factor, value = _PHRASES.get(tuple(words[start : start + length]), (None, None))
            if factor is not None:
                break
        if factor in ("colour", "size"):
            described[factor] = value
        elif factor == "shape":
            subjects.append(Subject(**described, shape=value))
            described = {}
        elif factor is not None:
            found.setdefault(factor, value)
        start += length
    if described and not subjects:
        subjects.append(Subject(**described))
    if not (found or subjects):
        raise InputError(
            f"no word of the shapes world in {caption!r}; try 'a small red circle moves right on grass, anime style'"
        )
    if len(subjects) > 2:
        raise InputError(f"{len(subjects)} subjects in {caption!r}; the shapes world has one or two")
    return Scene(**found, **({"subjects": tuple(subjects)} if subjects else {}))


def vocabulary() -> tuple[str, ...]:
    """Every word that `caption` can use, sorted."""
    phrases = [phrase for table in _TABLES.values() for said in table.values() for phrase in said]
    phrases += [_plural(phrase) for said in ACTION_PHRASES.values() for phrase in said]
    phrases += [phrase.format(size="") for phrase in SHOWN_PHRASES]
    return tuple(sorted({word for phrase in [*phrases, *COLOURS, *SHAPES, "a an and"] for word in phrase.split()}))


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _plural(action: str) -> str:
    verb, *rest = action.split()
    return " ".join([_PLURAL_VERBS.get(verb, verb.removesuffix("s")), *rest])


_TABLES = {
    "size": SIZE_WORDS,
    "action": ACTION_PHRASES,
    "place": PLACE_PHRASES,
    "camera": CAMERA_PHRASES,
    "style": STYLE_PHRASES,
}

_ALSO_UNDERSTOOD = {
    "size": {"small": ("tiny",), "large": ("huge",)},
    "shape": {"circle": ("ball", "disc", "disk"), "square": ("box", "cube")},
    "action": {"spins": ("turns", "spinning"), "stays still": ("still", "stands still", "remains still")},
    "place": {
        "grass": ("grass", "meadow", "field", "green field", "lawn"),
        "desert": ("desert", "sand", "dunes"),
        "snow": ("snow", "winter", "snowy"),
        "night": ("night", "moon", "dark"),
        "sea": ("sea", "ocean", "water"),
    },
    "camera": {
        "static": ("fixed camera", "still camera"),
        "tracking": ("tracking", "follows"),
        "aerial": ("aerial", "from above", "top view"),
    },
    "style": {
        "plain": ("plain",),
        "cinematic": ("film", "movie"),
        "anime": ("cartoon",),
        "watercolor": ("watercolor", "watercolour", "watercolors"),
    },
}


def _phrase_table() -> dict[tuple[str, ...], tuple[str, str]]:
    """From the words of a phrase to the factor and the value it stands for."""
    table = {(word,): (f, word) for f, ws in (("colour", COLOURS), ("shape", SHAPES), ("size", SIZES)) for word in ws}
    verbs = {"moves": "action", "drifts": "action", "glides": "action", "goes": "action", "slides": "action"}
    verbs |= {"floats": "action", "flies": "action", "pans": "camera", "tilts": "camera", "zooms": "camera"}
    for (verb, factor), to_the, way in product(
        verbs.items(), (False, True), ("left", "right", "up", "down", "in", "out")
    ):
        value = f"{verb} {way}" if factor == "camera" else f"moves {way}"
        if value in (CAMERA_PHRASES if factor == "camera" else ACTION_PHRASES):
            stem = {"goes": "go", "flies": "fly"}.get(verb, verb.removesuffix("s"))
            participle = {"pan": "panning", "move": "moving", "glide": "gliding", "slide": "sliding"}.get(
                stem, stem + "ing"
            )
            for form in (verb, stem, participle):
                table[(form, *(("to", "the") if to_the else ()), way)] = (factor, value)
    for tables in (_TABLES, _ALSO_UNDERSTOOD):
        for factor, values in tables.items():
            for value, phrases in values.items():
                for phrase in phrases:
                    table[tuple(phrase.split())] = (factor, value)
                    if factor == "action":
                        table[tuple(_plural(phrase).split())] = (factor, value)
    return table


_PHRASES = _phrase_table()
_LONGEST = max(map(len, _PHRASES))
