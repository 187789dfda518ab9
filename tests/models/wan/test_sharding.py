"""Which axis of the mesh splits which parameter of the published models."""

import jax
import pytest
from jax.sharding import PartitionSpec as P

from vidjax.models.wan import sharding
from vidjax.models.wan.presets import PRESETS
from vidjax.models.wan.weights import abstract_params
from vidjax.parallel.rules import match_rules

RULES = {
    "transformer": sharding.DENOISER_RULES,
    "text_encoder": sharding.TEXT_ENCODER_RULES,
    "image_encoder": sharding.IMAGE_ENCODER_RULES,
    "vae": sharding.VAE_RULES,
}


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "image_encoder"])
def test_nearly_everything_is_split(part):
    """A matrix that no rule names stands whole on every chip: the 14B model would not fit."""
    abstract = abstract_params(part, PRESETS["wan2.1-flf2v-14b"].part(part))
    specs = match_rules(RULES[part], abstract)
    leaves = jax.tree.leaves(abstract)
    split = jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, P))
    whole = sum(leaf.size for leaf, spec in zip(leaves, split, strict=True) if not any(spec))
    assert whole < 0.003 * sum(leaf.size for leaf in leaves)


@pytest.mark.parametrize(
    ("preset", "part"),
    [("wan2.1-flf2v-14b", "image_encoder")]
    + [(p, part) for p in ("wan2.1-t2v-1.3b", "wan2.1-flf2v-14b", "wan2.2-ti2v-5b")
       for part in ("transformer", "text_encoder", "vae")],
)  # fmt: skip
def test_splits_are_even(preset, part):
    """A size that an axis of the mesh does not divide is refused when the model is placed: 4 ways must do."""
    abstract = abstract_params(part, PRESETS[preset].part(part))
    specs = match_rules(RULES[part], abstract)

    def check(leaf, spec):
        for size, axis in zip(leaf.shape, spec, strict=False):
            assert axis is None or size % 4 == 0, (leaf.shape, spec)

    jax.tree.map(check, abstract, specs)
