"""Latents computed ahead: a training of the denoiser should not pay for the autoencoder at every step."""

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from filelock import FileLock
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from vidjax.data.buckets import Bucketed
from vidjax.models.wan import vae
from vidjax.typing import Array, Params
from vidjax.video import from_uint8

BATCH = 8


@dataclasses.dataclass(frozen=True)
class Latents:
    """Examples of a source with ``latents`` [f, h, w, z] (normalized, float16) in place of their frames."""

    latents: np.ndarray
    source: Any

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> dict[str, Any]:
        about = getattr(self.source, "about", None)  # frames are large: not read where it can be helped
        example = about(index) if about else {k: v for k, v in self.source[index].items() if k != "video"}
        return {**example, "latents": self.latents[index]}

    def __reduce__(self):
        # A worker maps the file; it is not sent what is in it.
        return _open, (Path(self.latents.filename), self.source)


def fingerprint(config: vae.VAEConfig, params: Params) -> str:
    """Twelve hexadecimal digits that change with what makes latents: all of the autoencoder but its decoder."""
    digest = hashlib.sha256(repr(dataclasses.replace(config, decoder_base_dim=None)).encode())
    makers = {name: part for name, part in params.items() if name in vae.ENCODER}
    for path, leaf in jax.tree_util.tree_flatten_with_path(makers)[0]:
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf, np.float32).tobytes())
    return digest.hexdigest()[:12]


def open_latents(config: vae.VAEConfig, params: Params, source: Any, folder: Path, name: str) -> Latents | Bucketed:
    """Latents of every clip of ``source`` (of each of its buckets), kept in ``folder`` under the autoencoder's name.

    Those of a source that has a ``name`` are kept under that, and found again whatever it is joined with.
    Computed at the first call, which goes on where an earlier one was cut off. Of several processes one computes,
    and the others wait for it.
    """
    mark = fingerprint(config, params)
    folder.mkdir(parents=True, exist_ok=True)

    def of(one: Any, name: str) -> Latents:
        path = folder / f"{getattr(one, 'name', name)}-{mark}.npy"
        if not path.exists():
            with FileLock(path.with_suffix(".lock")):
                if not path.exists():
                    _compute(config, params, one, path)
        return _open(path, one)

    if isinstance(source, Bucketed):
        return Bucketed(tuple(of(one, f"{name}-{i}") for i, one in enumerate(source.sources)))
    return of(source, name)


def _open(path: Path, source: Any) -> Latents:
    return Latents(np.load(path, mmap_mode="r"), source)


def _compute(config: vae.VAEConfig, params: Params, source: Any, path: Path) -> None:
    @jax.jit
    def encode(params: Params, video: Array) -> Array:
        mean, _ = vae.encode(config, params, from_uint8(video))
        return vae.normalize(config, mean).astype(np.float16)

    # The clips of a batch are spread over this process's devices.
    devices = jax.local_devices()[: math.gcd(BATCH, jax.local_device_count())]
    mesh = Mesh(np.asarray(devices), ("data",))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    spread = NamedSharding(mesh, PartitionSpec("data"))

    partial, progress = path.with_suffix(".partial.npy"), path.with_suffix(".progress")
    count = len(source)
    done = int(progress.read_text()) if partial.exists() and progress.exists() else 0
    shape = (count, *jax.eval_shape(encode, params, source[0]["video"][None]).shape[1:])
    latents = np.lib.format.open_memmap(partial, "r+" if done else "w+", np.float16, shape)
    with tqdm(total=count, initial=done, desc="latents", unit="clip") as bar:
        for start in range(done, count, BATCH):
            # The last batch is filled up with its last clip, so that one compilation serves all.
            rows = [min(start + i, count - 1) for i in range(BATCH)]
            video = jax.device_put(np.stack([source[i]["video"] for i in rows]), spread)
            encoded = np.asarray(encode(params, video))
            end = min(start + BATCH, count)
            latents[start:end] = encoded[: end - start]
            bar.update(end - start)
            if end == count or end // BATCH % 50 == 0:
                latents.flush()
                progress.write_text(str(end))
    partial.rename(path)
    progress.unlink()
