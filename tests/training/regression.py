"""A line fitted to noisy points: the smallest task that goes through every part of a run."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.training.task import Task


class Points:
    """Example `i` is drawn with seed `i`."""

    def __len__(self) -> int:
        return 6000

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        x = np.random.default_rng(index).normal(size=8).astype(np.float32)
        return {"index": np.int32(index), "x": x, "y": np.cumsum(x)[:4]}


def jitter(example: dict, rng: np.random.Generator) -> dict:
    """The point, moved a little."""
    return example | {"x": example["x"] + rng.normal(0, 0.01, 8).astype(np.float32)}


@dataclasses.dataclass(frozen=True)
class Regression:
    """`pause`: seconds that reading one example takes; `long_evaluation`: those of an evaluation."""

    size: int = 8
    pause: float = 0.0
    long_evaluation: float = 0.0
    crops: tuple[int, ...] = (1, 2)
    note: str | None = None

    def smoke(self) -> Self:
        return dataclasses.replace(self, note="smoke")

    def make(self, config: TrainConfig) -> Task:
        def init(key: jax.Array) -> dict:
            return {"dense": {"kernel": jax.random.normal(key, (self.size, 4)), "bias": jnp.zeros(4)}}

        def loss(params: dict, batch: dict, key: jax.Array) -> tuple:
            guess = batch["x"] @ params["dense"]["kernel"] + params["dense"]["bias"]
            guess = guess + 0.1 * jax.random.normal(key, guess.shape)
            error = jnp.mean((guess - batch["y"]) ** 2)
            return error, {"rows": jnp.mean(batch["index"].astype(jnp.float32))}

        def transform(example: dict, rng: np.random.Generator) -> dict:
            time.sleep(self.pause)
            return jitter(example, rng)

        def evaluate(params: dict, key: jax.Array) -> dict:
            time.sleep(self.long_evaluation)
            x = jax.random.normal(key, (32, 8))
            return {"error": float(jnp.mean((x @ params["dense"]["kernel"] - jnp.cumsum(x, 1)[:, :4]) ** 2))}

        def export(params: dict, folder: Path) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "bias.json").write_text(json.dumps(np.asarray(params["dense"]["bias"]).tolist()))

        rules = (("kernel", P("fsdp", "tensor")), ("bias", P()))
        return Task(init, loss, Points(), transform, evaluate, rules, export)


def get_config() -> TrainConfig:
    return TrainConfig(
        task=Regression(),
        steps=12,
        batch_size=8,
        optimizer=OptimizerConfig(learning_rate=0.05, warmup_steps=2, schedule="constant"),
        ema_decay=0.9,
        log_every=4,
        eval_every=6,
        save_every=5,
    )
