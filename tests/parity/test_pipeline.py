"""From words to latents: the published pipelines against ours, with tiny random parts and the same noise."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import tokenizer
from vidjax.conditioning.condition import paste, with_given
from vidjax.diffusion import flow, guidance, sampling, solvers
from vidjax.models import t5
from vidjax.models.wan import denoiser, vae
from vidjax.weights import folder

pytestmark = pytest.mark.parity

PROMPT, NEGATIVE = "A small red circle moves right, on grass", "blue night"
LENGTH, STEPS, GUIDANCE, SHIFT = 24, 10, 5.0, 3.0


class Parts(NamedTuple):
    """The parts of the published pipeline, and the same parts as ours: configuration and parameters by name."""

    theirs: dict[str, Any]
    ours: dict[str, tuple[Any, Any]]
    words: tokenizer.Tokenizer


def make_parts(references, path, autoencoder) -> Parts:
    from diffusers import UniPCMultistepScheduler
    from transformers import AutoTokenizer

    words = tokenizer.train(["a small red circle moves right on grass", "two blue squares spin at night"], LENGTH)
    folder.write_tokenizer(path, words.spiece, LENGTH)
    made = [
        autoencoder,
        references.denoiser(5, 7, text_dim=16),
        references.text_encoder(6, vocab_size=tokenizer.processor(words).vocab_size()),
    ]
    ours = {}
    for reference in made:
        references.save(reference, path)
        config = folder.read_config(path, reference.part)
        ours[reference.part] = config, folder.read_part(path, reference.part, config)
    theirs = {reference.part: reference.module for reference in made}
    theirs["tokenizer"] = AutoTokenizer.from_pretrained(path / "tokenizer")
    theirs["scheduler"] = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT, num_train_timesteps=1000
    )
    return Parts(theirs, ours, words)


def our_latents(parts: Parts, noise: np.ndarray, given: jax.Array, mask: jax.Array) -> jax.Array:
    """Guided text to video with some latent frames given."""
    text_config, text_params = parts.ours["text_encoder"]
    tokens = tokenizer.tokenize(parts.words, [PROMPT, NEGATIVE])
    text = t5.encode(text_config, text_params, jnp.asarray(tokens.ids), jnp.asarray(tokens.lengths))
    config, params = parts.ours["transformer"]

    def pair(x, t):
        return tuple(
            with_given(
                functools.partial(
                    denoiser.velocity, config, params, context=denoiser.context(config, params, text[i : i + 1])
                ),
                given,
                mask,
            )(x, t)
            for i in range(2)
        )

    velocity = guidance.classifier_free(pair, GUIDANCE)
    schedule = flow.make_schedule(STEPS, SHIFT, grid="folder")
    x = jax.jit(lambda x: sampling.sample(velocity, x, schedule, solvers.unipc))(jnp.asarray(noise))
    return paste(given, mask, x)


def asked(noise: np.ndarray, height: int, width: int, references) -> dict[str, Any]:
    """The arguments of the published pipelines."""
    return {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "height": height,
        "width": width,
        "num_frames": 9,
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "latents": references.channels_first(noise),
        "max_sequence_length": LENGTH,
        "output_type": "latent",
    }


def test_text_to_video(references, tmp_path):
    """Tokens, text, guidance, times and solver together: the same words and noise must give the same clip."""
    from diffusers import WanPipeline

    parts = make_parts(references, tmp_path, references.vae_2_1(4))
    pipeline = WanPipeline(**parts.theirs)
    pipeline.set_progress_bar_config(disable=True)
    noise = references.numbers(3)(1, 3, 4, 6, 4)
    expected = references.channels_last(pipeline(**asked(noise, 32, 48, references)).frames)
    nothing = jnp.zeros(noise.shape), jnp.zeros((1, 3), bool)
    found = our_latents(parts, noise, *nothing)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


def test_image_to_video(references, tmp_path):
    """2.2 TI2V: the picture's latent frame is given at time 0 in every step, and stands in the result."""
    from diffusers import WanImageToVideoPipeline
    from PIL import Image

    parts = make_parts(references, tmp_path, references.vae_2_2(4))
    pipeline = WanImageToVideoPipeline(**parts.theirs, expand_timesteps=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = references.numbers(3)(1, 3, 4, 2, 4)
    image = np.random.default_rng(2).integers(0, 256, (64, 32, 3)).astype(np.uint8)
    arguments = asked(noise, 64, 32, references)
    expected = references.channels_last(pipeline(image=Image.fromarray(image), **arguments).frames)

    config, params = parts.ours["vae"]
    mean, _ = vae.encode(config, params, jnp.asarray(image, jnp.float32)[None, None] / 127.5 - 1)
    given = vae.normalize(config, mean)
    mask = jnp.array([[True, False, False]])
    found = our_latents(parts, noise, jnp.broadcast_to(given, noise.shape), mask)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
