"""A discriminator that tells clips from what came back of them, trained in the same step as what it judges.

One loss has two parts, and `stop_gradient` says who learns from which: the discriminator from its own, with the clips
held still, and the generator from the other, with the discriminator held still. So its parameters are parameters like
any others, in one tree, with one optimizer and one checkpoint.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidjax.typing import Array, Float, Params


@dataclasses.dataclass(frozen=True)
class Adversarial:
    """``weight`` of the generator's part beside its other losses; width and depth of the discriminator."""

    weight: float = 0.1
    base_dim: int = 64
    num_layers: int = 3


class Discriminator(nn.Module):
    """A verdict on every patch of a clip, above 0 for real: PatchGAN (Isola et al., 1611.07004) in three dimensions."""

    config: Adversarial

    @nn.compact
    def __call__(self, x: Float[Array, "B F H W 3"]) -> Float[Array, "B f h w"]:
        for i in range(self.config.num_layers):
            # The first keeps all frames, so that each is judged by itself too.
            strides = (1 if i == 0 else 2, 2, 2)
            dim = self.config.base_dim * 2 ** min(i, 3)
            x = nn.Conv(dim, (3, 4, 4), strides, use_bias=i == 0, name=f"conv_{i}")(x)
            if i:
                x = nn.GroupNorm(num_groups=None, group_size=min(16, dim), name=f"norm_{i}")(x)
            x = nn.leaky_relu(x, 0.2)
        return nn.Conv(1, (3, 4, 4), name="head")(x)[..., 0]


def init(config: Adversarial, key: Array) -> Params:
    """Random parameters."""
    return Discriminator(config).init(key, jnp.zeros((1, 1, 16, 16, 3)))["params"]


def losses(
    config: Adversarial, params: Params, real: Float[Array, "B F H W 3"], fake: Float[Array, "B F H W 3"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The generator's part, whose gradient reaches ``fake`` alone, and the discriminator's, which reaches ``params``.

    The hinge loss (Lim and Ye, 1705.02894): verdicts beyond 1 and -1 are right enough.
    """

    def verdicts(params: Params, clips: Array) -> Array:
        return Discriminator(config).apply({"params": params}, clips)

    generator = -jnp.mean(verdicts(jax.lax.stop_gradient(params), fake))
    on_real, on_fake = verdicts(params, real), verdicts(params, jax.lax.stop_gradient(fake))
    return generator, 0.5 * (jnp.mean(nn.relu(1.0 - on_real)) + jnp.mean(nn.relu(1.0 + on_fake)))
