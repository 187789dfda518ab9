"""A training step of the PyTorch reference, to compare with: the one file here that needs PyTorch and diffusers."""

import dataclasses
from collections.abc import Callable

import torch
from diffusers import WanTransformer3DModel

from vidjax.models.wan.denoiser import DenoiserConfig


def make_step(model: DenoiserConfig, latents: tuple[int, int, int, int, int], text: int) -> Callable[[], None]:
    """Flow matching on random ``latents`` [B, f, h, w, c] and ``text`` tokens: forward, backward, clipping, AdamW."""
    torch.manual_seed(0)
    module = WanTransformer3DModel(**dataclasses.asdict(model))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, weight_decay=0.01)
    B, f, h, w, c = latents
    x0, embeddings = torch.randn(B, c, f, h, w), torch.randn(B, text, model.text_dim)

    def step() -> None:
        noise, t = torch.randn_like(x0), torch.rand(B)
        part = t.reshape(-1, 1, 1, 1, 1)
        velocity = module((1 - part) * x0 + part * noise, 1000 * t, embeddings, return_dict=False)[0]
        loss = ((velocity - (noise - x0)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()

    return step
