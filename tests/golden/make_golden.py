"""Write the golden files beside this script: tiny random PyTorch references, what goes in and what comes out.

    python tests/golden/make_golden.py        # needs the parity extra

Each model is a folder: a part in the published layout, its weights in float16, and ``arrays.npz`` with inputs and
outputs (channels last). The references run in float32 on just those weights. ``unipc.npz`` holds walks of the
published solver. The live parity tests build the same references with other seeds.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

HERE = Path(__file__).parent

WALKS = [(n, shift) for n in (1, 2, 3, 10, 50) for shift in (1.0, 3.0, 8.0)]


class Reference(NamedTuple):
    """A PyTorch module, the sub-folder it belongs in, and arrays that went in and came out."""

    part: str
    module: torch.nn.Module
    arrays: dict[str, np.ndarray]


def numbers(seed: int) -> Callable[..., np.ndarray]:
    """Unit normal arrays that float16 holds exactly."""
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.standard_normal(shape).astype(np.float16).astype(np.float32)


def randomized(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Every parameter moved off its initial value, so that norms and biases count, and rounded to float16."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = (parameter.data + 0.1 * parameter.data.abs().mean().clamp(min=0.3) * noise).half().float()
    return module.eval()


def channels_first(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.moveaxis(x, -1, 1))


def channels_last(x: torch.Tensor) -> np.ndarray:
    return np.moveaxis(x.detach().numpy(), 1, -1)


def autoencoder(seed: int, height: int, width: int, **config: Any) -> Reference:
    """Nine frames, wider than high, so that swapped axes show."""
    z = 4
    config = {"base_dim": 4, "z_dim": z, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1, **config}
    config |= {"latents_mean": [0.25, -0.5, 0.0, 1.0], "latents_std": [1.5, 2.0, 0.5, 1.0]}
    torch.manual_seed(seed)
    module = randomized(AutoencoderKLWan(**config), seed)
    make = numbers(seed)
    frames = np.tanh(make(1, 9, height, width, 3)).astype(np.float16).astype(np.float32)
    factor = config.get("scale_factor_spatial", 8)
    latents = make(1, 3, height // factor, width // factor, z)
    with torch.no_grad():
        moments = module.encode(channels_first(frames)).latent_dist
        decoded = module.decode(channels_first(latents)).sample
    arrays = {
        "frames": frames,
        "latents": latents,
        "mean": channels_last(moments.mean),
        "log_variance": channels_last(moments.logvar),
        "decoded": channels_last(decoded),
    }
    return Reference("vae", module, arrays)


def decoded(module: AutoencoderKLWan, latents: torch.Tensor) -> np.ndarray:
    """Frames [F, H, W, 3] in [0, 1] of normalized latents, as the published pipelines decode them."""
    mean, std = (
        torch.tensor(v).reshape(1, -1, 1, 1, 1) for v in (module.config.latents_mean, module.config.latents_std)
    )
    with torch.no_grad():
        frames = module.decode(latents * std + mean).sample
    return channels_last(frames / 2 + 0.5).clip(0, 1)[0]


def vae_2_1(seed: int) -> Reference:
    return autoencoder(seed, 16, 24)


def vae_2_2(seed: int) -> Reference:
    """Residual shortcuts, a wider decoder, and 2 x 2 pixels folded into channels."""
    form = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 16}
    return autoencoder(seed, 16, 32, decoder_base_dim=6, **form)


def denoiser(seed: int, text_length: int, **config: Any) -> Reference:
    """Two clips with another time for every frame. The head size, 16, does not divide by 6."""
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "text_dim": 12, "freq_dim": 16, "ffn_dim": 40}
    config = {"in_channels": 4, "out_channels": 4, "num_layers": 2, "rope_max_seq_len": 32, **sizes, **config}
    torch.manual_seed(seed)
    module = randomized(WanTransformer3DModel(**config), seed)
    make = numbers(seed)
    x, text = make(2, 3, 4, 6, config["in_channels"]), make(2, text_length, config["text_dim"])
    t = np.array([[0, 0.5, 0.875], [0.125, 0.25, 1]], np.float32)
    arrays = {"x": x, "t": t, "text": text}
    image = None
    if config.get("image_dim"):
        arrays["image"] = make(2, config.get("pos_embed_seq_len") or 5, config["image_dim"])
        # The reference takes the two pictures of a clip as two rows.
        pictures = 2 if config.get("pos_embed_seq_len") else 1
        image = torch.tensor(arrays["image"]).reshape(2 * pictures, -1, config["image_dim"])
    _, ph, pw = config.get("patch_size", (1, 2, 2))
    tokens = torch.tensor(1000 * t).repeat_interleave((4 // ph) * (6 // pw), dim=1)
    with torch.no_grad():
        velocity = module(channels_first(x), tokens, torch.tensor(text), image)[0]
    return Reference("transformer", module, arrays | {"velocity": channels_last(velocity)})


def denoiser_text(seed: int) -> Reference:
    return denoiser(seed, text_length=7)


def denoiser_image(seed: int) -> Reference:
    """Image tokens of two pictures with a position table, and conditioning channels. The text is 512 long: the
    reference finds the image tokens by counting from there."""
    image = {"image_dim": 20, "added_kv_proj_dim": 32, "pos_embed_seq_len": 6}
    return denoiser(seed, text_length=512, in_channels=9, **image)


def text_encoder(seed: int, vocab_size: int = 40) -> Reference:
    """200 tokens, past the distance at which the buckets end; and 9 tokens with padding."""
    config = UMT5Config(vocab_size=vocab_size, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=3, decoder_layers=0)
    torch.manual_seed(seed)
    module = randomized(UMT5EncoderModel(config), seed)
    tokens = np.random.default_rng(seed).integers(2, vocab_size, (2, 200)).astype(np.int32)
    lengths = np.array([200, 9], np.int32)
    mask = np.arange(200) < lengths[:, None]
    tokens = np.where(mask, tokens, 0)
    with torch.no_grad():
        embedding = module(torch.tensor(tokens), torch.tensor(mask.astype(np.int64)))[0].numpy()
    return Reference(
        "text_encoder", module, {"tokens": tokens, "lengths": lengths, "text": embedding * mask[..., None]}
    )


def image_encoder(seed: int) -> Reference:
    """Two preprocessed pictures of four patches each."""
    sizes = {"hidden_size": 20, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    torch.manual_seed(seed)
    config = CLIPVisionConfig(**sizes, image_size=28, patch_size=14, hidden_act="gelu")
    module = randomized(CLIPVisionModel(config), seed)
    pictures = numbers(seed)(2, 28, 28, 3)
    with torch.no_grad():
        states = module(channels_first(pictures), output_hidden_states=True).hidden_states
    return Reference("image_encoder", module, {"pictures": pictures, "tokens": states[-2].numpy()})


REFERENCES = {f.__name__: f for f in (vae_2_1, vae_2_2, denoiser_text, denoiser_image, text_encoder, image_encoder)}


def walk(num_steps: int, shift: float, x: np.ndarray, mix: np.ndarray) -> dict[str, np.ndarray]:
    """The published solver's walk under the velocity ``t tanh(x mix) + 0.1 x``."""
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, num_train_timesteps=1000
    )
    scheduler.set_timesteps(num_steps)
    state = torch.tensor(x)
    for t in scheduler.timesteps:
        velocity = torch.tanh(state @ torch.tensor(mix)) * float(t) / 1000 + 0.1 * state
        state = scheduler.step(velocity, t, state).prev_sample
    return {"sigmas": scheduler.sigmas.numpy(), "timesteps": scheduler.timesteps.numpy(), "x": state.numpy()}


def save(reference: Reference, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """The reference's part in the published layout."""
    reference.module.to(dtype).save_pretrained(folder / reference.part)


def main() -> None:
    for name, build in REFERENCES.items():
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        reference = build(seed=0)
        save(reference, folder, torch.float16)
        np.savez_compressed(folder / "arrays.npz", **{k: packed(v) for k, v in reference.arrays.items()})
    make = numbers(0)
    arrays = {"x": make(1, 2, 2, 2, 3), "mix": make(3, 3)}
    for n, shift in WALKS:
        found = walk(n, shift, arrays["x"], arrays["mix"])
        arrays |= {f"{key}_{n}_{shift:g}": value for key, value in found.items()}
    np.savez_compressed(HERE / "unipc.npz", **arrays)


def packed(x: np.ndarray) -> np.ndarray:
    """In float16 where that holds it exactly."""
    return x.astype(np.float16) if x.dtype == np.float32 and (x.astype(np.float16) == x).all() else x


if __name__ == "__main__":
    main()
