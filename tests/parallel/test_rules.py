import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from vidjax.errors import InputError
from vidjax.parallel.mesh import make_mesh
from vidjax.parallel.rules import constrain, match_rules, match_state, shard, shardings

PARAMS = {"blocks": {"attention": {"kernel": np.ones((4, 8)), "bias": np.ones(8)}}, "head": {"kernel": np.ones((8, 2))}}


def test_first_match_wins():
    rules = [("attention/kernel", P("fsdp", "tensor")), ("kernel$", P("fsdp")), (".*", P())]
    assert match_rules(rules, PARAMS) == {
        "blocks": {"attention": {"kernel": P("fsdp", "tensor"), "bias": P()}},
        "head": {"kernel": P("fsdp")},
    }


def test_every_parameter_must_match():
    """A forgotten parameter is replicated on every chip, and found when memory runs out."""
    with pytest.raises(InputError, match="matches blocks/attention/bias, head/kernel;"):
        match_rules([("attention/kernel", P())], PARAMS)


def test_spec_must_fit():
    with pytest.raises(InputError, match="'blocks/attention/bias', which has only 1 axes"):
        match_rules([(".*", P("fsdp", "tensor"))], PARAMS)
    mesh = make_mesh(data=2, tensor=4)
    with pytest.raises(InputError, match=r"'head/kernel' of shape \(8, 2\): axis 1 cannot be split evenly"):
        shard(PARAMS, mesh, [("kernel", P(None, "tensor")), (".*", P())])
    with pytest.raises(InputError, match="no mesh axis 'model'; there are data, fsdp, context, tensor"):
        shard(PARAMS, mesh, [("kernel", P("model")), (".*", P())])


def test_shard_places():
    mesh = make_mesh(fsdp=2, tensor=4)
    placed = shard(PARAMS, mesh, [("attention/kernel", P("fsdp", "tensor")), (".*", P())])
    assert placed["blocks"]["attention"]["kernel"].addressable_shards[0].data.shape == (2, 2)
    assert placed["head"]["kernel"].sharding.is_fully_replicated


def test_moments_follow_their_parameters():
    """Replicated moments would take twice the memory of the sharded parameters on every chip."""
    specs = match_rules([("attention/kernel", P("fsdp", "tensor")), (".*", P())], PARAMS)
    state = jax.eval_shape(optax.adam(1e-3).init, PARAMS)
    matched = match_state(specs, state)
    assert matched[0].mu == matched[0].nu == specs
    assert matched[0].count == P()
    shardings(make_mesh(fsdp=2, tensor=4), matched, state)


def test_constrain_without_a_mesh_is_nothing():
    x = jnp.ones((4, 3))
    assert constrain(x, "data", None) is x


def test_constrain_splits_what_divides():
    """Sampling one clip on a mesh with data=4 must run, its batch whole."""
    with jax.set_mesh(make_mesh(data=4, context=2)):
        split = jax.jit(lambda x: constrain(2 * x, ("data", "fsdp"), "context"))(jnp.ones((4, 6)))
        single = jax.jit(lambda x: constrain(2 * x, "data", "context"))(jnp.ones((1, 6)))
    assert split.sharding.shard_shape(split.shape) == (1, 3)
    assert single.sharding.shard_shape(single.shape) == (1, 3)


def test_constrain_inside_shard_map():
    """Kernels run under shard_map, where an axis that is already split cannot be asked for again."""
    mesh = make_mesh(data=4, context=2)

    def inner(x):
        return constrain(x, "data", "context") + 1

    with jax.set_mesh(mesh):
        y = jax.jit(jax.shard_map(inner, in_specs=P("data"), out_specs=P("data")))(jnp.zeros((4, 6)))
    np.testing.assert_array_equal(y, np.ones((4, 6)))
