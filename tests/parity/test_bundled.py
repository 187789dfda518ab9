"""The bundled folder in the PyTorch reference: whoever takes it there gets the clip that vidjax makes."""

import jax
import numpy as np
import pytest

import vidjax
from vidjax.model import bundled

torch = pytest.importorskip("torch")

PROMPT = "a small red circle moves right on grass, watercolor style, the camera pans left"


@pytest.mark.parity
def test_the_reference_pipeline_makes_the_same_clip():
    """Fails if a name, layout, token, schedule or setting of the bundled folder is not the published one."""
    from diffusers import WanPipeline

    model = vidjax.load()
    shape = (1, *model.config.latent_shape(17, 64, 64))
    noise = np.asarray(jax.random.normal(jax.random.key(7), shape))
    settings = {"height": 64, "width": 64, "num_frames": 17, "num_inference_steps": 10, "guidance_scale": 3.5}
    ours = vidjax.generate(model, PROMPT, latents=noise, output_type="latent", progress=False, **settings)

    pipeline = WanPipeline.from_pretrained(bundled(), torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPT,
        negative_prompt="",
        latents=torch.tensor(noise).permute(0, 4, 1, 2, 3),
        max_sequence_length=model.tokenizer.max_length,
        output_type="latent",
        **settings,
    ).frames
    theirs = theirs.permute(0, 2, 3, 4, 1).numpy()
    difference = np.linalg.norm(np.asarray(ours) - theirs) / np.linalg.norm(theirs)
    assert difference < 1e-3
