"""Whole folders, as the published pipelines save them: loaded here, they make the same latents and frames from the
same words, pictures and noise."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import vidjax
from vidjax import tokenizer
from vidjax.decoding import decode
from vidjax.weights import folder

pytestmark = pytest.mark.parity

PROMPT, NEGATIVE = "A small red circle moves right, on grass", "blue night"
FRAMES, STEPS = 9, 10
LENGTH = 512
"""The reference finds image tokens by counting from the longest text."""

CHANNELS = {"in_channels": 12}  # latents 4, mask 4, encoded pictures 4
TOKENS = {"image_dim": 20, "added_kv_proj_dim": 32}


class Kind(NamedTuple):
    """Settings of the denoiser; how many pictures are given; the time at which a second denoiser takes over."""

    denoiser: dict[str, Any]
    pictures: int = 0
    boundary: float | None = None
    expand_timesteps: bool = False


KINDS = {
    "2.1 text": Kind({}),
    "2.1 image": Kind(CHANNELS | TOKENS, 1),
    "2.1 first and last": Kind(CHANNELS | TOKENS | {"pos_embed_seq_len": 10}, 2),
    "2.2 text": Kind({}, boundary=0.875),
    "2.2 image": Kind(CHANNELS, 1, 0.9),
    "2.2 first and last": Kind(CHANNELS, 2, 0.9),
    "TI2V text": Kind({}, expand_timesteps=True),
    "TI2V image": Kind({}, 1, expand_timesteps=True),
}


def published(references, path: Path, kind: Kind) -> Any:
    """The reference pipeline, saved to a folder."""
    from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline, WanPipeline
    from transformers import AutoTokenizer, CLIPImageProcessorPil

    words = tokenizer.train(["a small red circle moves right on grass", "two blue squares spin at night"], LENGTH)
    folder.write_tokenizer(path, words.spiece, LENGTH)
    vocabulary = tokenizer.processor(words).vocab_size()
    experts = [
        references.denoiser(5 + i, LENGTH, text_dim=16, **kind.denoiser).module for i in range(1 + bool(kind.boundary))
    ]
    parts: dict[str, Any] = {
        "tokenizer": AutoTokenizer.from_pretrained(path / "tokenizer"),
        "text_encoder": references.text_encoder(6, vocabulary).module,
        "vae": (references.vae_2_2 if kind.expand_timesteps else references.vae_2_1)(4).module,
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
        ),
        "transformer": experts[0],
        "transformer_2": experts[1] if kind.boundary else None,
        "expand_timesteps": kind.expand_timesteps,
    }
    if kind.denoiser.get("image_dim"):
        parts["image_encoder"] = references.image_encoder(8).module
        parts["image_processor"] = CLIPImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        )
    pipeline = (WanImageToVideoPipeline if kind.pictures else WanPipeline)(**parts, boundary_ratio=kind.boundary)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(path)
    # What the published folders hold; newer libraries save another form of it.
    folder.write_tokenizer(path, words.spiece, LENGTH)
    return pipeline


@pytest.mark.parametrize("kind", KINDS)
def test_same_clip(references, tmp_path, kind):
    """Channels, masks, image tokens, the switch between denoisers or a scale in another place: another clip."""
    from PIL import Image

    kind = KINDS[kind]
    pipeline = published(references, tmp_path, kind)
    height, width, factor = (64, 32, 16) if kind.expand_timesteps else (32, 48, 8)
    noise = references.numbers(3)(1, 3, height // factor, width // factor, 4)
    # Of the clip's size: how a picture is cut to size is not the model's.
    pictures = np.random.default_rng(2).integers(0, 256, (2, height, width, 3)).astype(np.uint8)
    named = dict(zip(("image", "last_image")[: kind.pictures], pictures, strict=False))
    settings = {"height": height, "width": width, "num_frames": FRAMES, "num_inference_steps": STEPS}
    settings |= {"guidance_scale": 5.0, "negative_prompt": NEGATIVE} | (
        {"guidance_scale_2": 2.0} if kind.boundary else {}
    )
    theirs = pipeline(
        prompt=PROMPT, latents=references.channels_first(noise), max_sequence_length=LENGTH, output_type="latent",
        **settings, **{name: Image.fromarray(picture) for name, picture in named.items()},
    ).frames  # fmt: skip
    expected = references.channels_last(theirs)

    model = vidjax.load(tmp_path)
    asked = {"latents": noise, "flow_shift": 3.0, "progress": False, **settings, **named}
    found = vidjax.generate(model, PROMPT, output_type="latent", **asked)
    assert np.abs(expected - noise).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())

    frames = np.concatenate(list(decode(model, found)), axis=1)[0]
    # A last picture is the model's own to paint where it is given as channels.
    np.testing.assert_array_equal(vidjax.generate(model, PROMPT, **asked).frames, frames)
    error = np.mean((frames / 255.0 - references.decoded(pipeline.vae, theirs)) ** 2)
    assert 10 * np.log10(1 / error) > 45, "decoded frames differ"
