"""Eight fake CPU devices, shape checks on every annotated function of the package, and a tiny model for all tests."""

import dataclasses
import os

import jax
import jaxtyping
import numpy as np
import pytest
from jaxtyping import install_import_hook

# Before the backend starts and before the package is first imported.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")
# Tests mostly compile: this halves their time. `.ci/run` compares with the references at full optimization.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    jax.config.update("jax_disable_most_optimizations", True)
# With the numeric tower: 4 is a good enough float.
install_import_hook("vidjax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


@pytest.fixture
def unchecked():
    """Annotations are not checked for users: what they pass by mistake reaches the function itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A random model in the published layout: 9 frames of 16x32 in 3 steps; stored as the bundled one is."""
    from vidjax import tokenizer
    from vidjax.data.source import ClipData
    from vidjax.models.t5 import T5Config
    from vidjax.models.wan.denoiser import DenoiserConfig
    from vidjax.models.wan.presets import SamplingDefaults
    from vidjax.models.wan.vae import VAEConfig
    from vidjax.weights import folder

    words = tokenizer.train(ClipData().captions(200), max_length=32)
    vocabulary = tokenizer.processor(words).vocab_size()
    text_encoder = T5Config(vocab_size=vocabulary, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    transformer = DenoiserConfig(
        patch_size=(1, 1, 1), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=16, freq_dim=8, ffn_dim=16, num_layers=2, rope_max_seq_len=64,
    )  # fmt: skip
    vae = VAEConfig(
        base_dim=8, z_dim=4, dim_mult=(1, 2, 2), num_res_blocks=1, temperal_downsample=(True, True), is_residual=True,
        in_channels=48, out_channels=48, patch_size=4, scale_factor_spatial=16,
        latents_mean=(0.1, -0.2, 0.3, 0.0), latents_std=(0.5, 1.0, 2.0, 1.5),
    )  # fmt: skip
    sampling = SamplingDefaults(
        height=16, width=32, num_frames=9, fps=8.0, num_inference_steps=3, guidance_scale=3.0, flow_shift=3.0,
        max_text_length=32,
    )  # fmt: skip
    place = tmp_path_factory.mktemp("model") / "tiny"
    place.mkdir()
    rng = np.random.default_rng(0)
    stored = {"transformer": "bfloat16", "text_encoder": "bfloat16", "vae": "float16"}
    for part, config in (("transformer", transformer), ("text_encoder", text_encoder), ("vae", vae)):
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: _random(path[-1].key, leaf.shape, rng), folder.abstract_params(part, config)
        )
        folder.write_part(place, part, config, params, stored[part])
    folder.write_tokenizer(place, words.spiece, words.max_length)
    folder.write_index(place, sampling.flow_shift, True, dataclasses.asdict(sampling))
    return place


def _random(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    # Drawn here rather than by the modules' own init, whose compilation takes a minute.
    value = rng.normal(size=shape)
    if name == "kernel":
        value /= np.prod(shape[-5:-1]) ** 0.5
    elif name == "bias":
        value *= 0.1
    elif name in ("gamma", "scale"):
        value = 1 + 0.1 * value
    return value.astype(np.float32)


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    """The tiny model, loaded once."""
    import vidjax

    return vidjax.load(tiny_folder)


@pytest.fixture
def compilations():
    """A list that grows with everything that is compiled while the test runs."""
    compiled = []

    def listen(event: str, duration: float, **details) -> None:
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield compiled
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def refused():
    """``refused(match, call, ...)``: the call says in one line why a picture or a clip cannot be read or written."""
    from vidjax.errors import MediaError

    def check(match, call, *args, **kwargs):
        with pytest.raises(MediaError, match=match) as caught:
            call(*args, **kwargs)
        assert "\n" not in str(caught.value)

    return check
