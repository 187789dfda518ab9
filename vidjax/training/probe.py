"""A probe on the text encoder: linear heads that tell the factors of a scene from its caption.

It gives the text encoder a reason to tell words apart before the denoiser can use them: first by itself, then
beside the denoiser's loss. Nothing of it is exported.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vidjax.data.shapes import ACTIONS, CAMERAS, COLOURS, PLACES, SHAPES, SIZES, STYLES, Scene, Subject
from vidjax.data.shapes.captions import SHOTS
from vidjax.typing import Array, Float, Int, Params

SUBJECT = {"colour": COLOURS, "shape": SHAPES, "size": SIZES}
SCENE = {"action": ACTIONS, "place": PLACES, "camera": CAMERAS, "style": STYLES}
# The second subject may be absent: one class more.
HEADS = (*(len(w) for w in SUBJECT.values()), *(len(w) + 1 for w in SUBJECT.values()), *map(len, SCENE.values()))


def labels(scene: Scene, untold: Collection[str] = ()) -> Int[np.ndarray, "heads"]:
    """Index of each factor's value, in the order of the heads; -1 where captions leave it ``untold``."""
    first, second = (*scene.subjects, None)[:2]

    def of(subject: Subject | None) -> list[int]:
        told = {f: len(w) if subject is None else w.index(getattr(subject, f)) for f, w in SUBJECT.items()}
        return [-1 if subject is not None and f in untold else label for f, label in told.items()]

    own = [-1] * len(SUBJECT) if "subject" in untold else of(first)
    rest = {f: -1 if f in untold else w.index(getattr(scene, f)) for f, w in SCENE.items()}
    if scene.drift is not None:
        rest["camera"] = -1
    elif scene.camera in SHOTS:
        rest["camera"] = CAMERAS.index(scene.camera)
    return np.asarray([*own, *of(second), *rest.values()], np.int32)


def init(dim: int, key: Array) -> Params:
    """One matrix for all heads side by side."""
    return {"kernel": 0.02 * jax.random.normal(key, (dim, sum(HEADS))), "bias": jnp.zeros((sum(HEADS),))}


def loss(
    params: Params, text: Float[Array, "B L D"], lengths: Int[Array, "B"], factors: Int[Array, "B heads"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross-entropy over heads, and the share that is right; factors of -1 do not count."""
    pooled = text.astype(jnp.float32).sum(axis=1) / lengths[:, None]
    logits = pooled @ params["kernel"] + params["bias"]
    parts = jnp.split(logits, np.cumsum(HEADS)[:-1], axis=-1)
    known = factors >= 0
    target = jnp.maximum(factors, 0)
    entropy = jnp.stack(
        [optax.softmax_cross_entropy_with_integer_labels(p, target[:, i]) for i, p in enumerate(parts)], axis=1
    )
    right = jnp.stack([p.argmax(-1) for p in parts], axis=1) == target
    count = jnp.maximum(known.sum(), 1)
    return jnp.where(known, entropy, 0).sum() / count, jnp.where(known, right, False).sum() / count


class Captions(NamedTuple):
    """Captions as tokens, with the factors they tell."""

    tokens: Int[np.ndarray, "captions L"]
    lengths: Int[np.ndarray, "captions"]
    factors: Int[np.ndarray, "captions heads"]


def pretrain(
    encode: Callable[[Params, Array, Array], Float[Array, "B L D"]],
    params: Params,
    captions: Captions,
    key: Array,
    steps: int,
    batch: int = 128,
    learning_rate: float = 2e-3,
) -> Params:
    """``params`` (a text encoder for ``encode(params, tokens, lengths)``, and ``probe``) after Adam; traceable."""
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1)))
    captions = jax.tree.map(jnp.asarray, captions)

    def step(state, key):
        params, moments = state
        rows = jax.tree.map(lambda x: x[jax.random.randint(key, (batch,), 0, len(x))], captions)

        def objective(params: Params) -> Array:
            return loss(params["probe"], encode(params, rows.tokens, rows.lengths), rows.lengths, rows.factors)[0]

        updates, moments = optimizer.update(jax.grad(objective)(params), moments)
        return (optax.apply_updates(params, updates), moments), None

    return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, steps))[0][0]
