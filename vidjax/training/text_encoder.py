"""Training a text encoder anew for a denoiser that is there: its words stay known, and their order is told too.

A denoiser sees a caption as a set of embeddings. Which word belongs to which, and what comes first, it can know only
from the embeddings themselves.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.checks import number
from vidjax.config import TrainConfig
from vidjax.data.shapes import Scene, caption
from vidjax.data.source import ClipData, DataConfig, SceneData
from vidjax.errors import InputError
from vidjax.model import ModelConfig, bundled, read_config
from vidjax.parallel.mesh import make_mesh
from vidjax.parallel.rules import under
from vidjax.training import probe
from vidjax.training.conditioning import draw_untold
from vidjax.training.samples import Encode, Row, stack
from vidjax.training.task import Task
from vidjax.training.texts import PART, encoded_in_step
from vidjax.typing import Array, Float, Int, Params
from vidjax.weights import folder, hub

FORMER = "former"
"""The model's own text encoder, where it is held during training."""


@dataclasses.dataclass(frozen=True)
class TextEncoderTask:
    """A new text encoder like the model's own: linear heads are to tell from it all that a caption says of the scene,
    of two subjects which is which, and it is to stay close to the model's own embeddings.

    Exports the whole model with it, for the denoiser to go on learning by `FinetuneTask`.

    Args:
      model: a folder in the published layout or a hub id; None: the bundled model.
      data: whose captions; no clip is rendered.
      closeness: weight of the mean squared distance to the model's own embeddings.
      caption_dropout: share of captions that are empty.
      untold_share: share of captions that leave something out, see `Conditioning`; in as many a subject that is alone
        is not told, as where pictures show it.
      eval_captions: captions that are kept from training.
    """

    model: str | None = None
    data: DataConfig = ClipData()
    closeness: float = 0.3
    caption_dropout: float = 0.05
    untold_share: float = 0.1
    eval_captions: int = 1000

    def make(self, config: TrainConfig) -> Task:
        """The task as functions.

        Raises:
          InputError: these captions tell of no known scenes, or a share is none.
        """
        if not isinstance(self.data, SceneData):
            kind = type(self.data).__name__
            raise InputError(f"data={kind}: it is not known what its captions tell; the shapes world, ClipData, says")
        number("untold_share", self.untold_share, 0, 1)
        number("caption_dropout", self.caption_dropout, 0, 1)
        number("closeness", self.closeness, 0, math.inf)
        if self.eval_captions < 1:
            raise InputError(f"eval_captions={self.eval_captions}: must be at least 1")
        path = bundled() if self.model is None else hub.find(self.model)
        model = read_config(path)
        texts = encoded_in_step(path, model, make_mesh(**dataclasses.asdict(config.mesh)))
        frozen = {FORMER: texts.frozen[PART]}
        scenes = [{"scene": scene} for scene in self.data.scenes(self.data.num_clips + self.eval_captions)]
        train, test = scenes[: self.data.num_clips], scenes[self.data.num_clips :]
        rows = [probe_row(texts.row, each["scene"], np.random.default_rng(i)) for i, each in enumerate(test)]
        loss = functools.partial(self.loss, texts.encode)
        return Task(
            init=functools.partial(self.init, model),
            loss=loss,
            source=train,
            transform=functools.partial(self.transform, texts.row),
            evaluate=functools.partial(self.evaluate, jax.jit(loss), stack(rows), frozen),
            rules=(*under(PART, model.modules.rules[PART]), (r".*", jax.sharding.PartitionSpec())),
            export=functools.partial(self.export, path, model),
            frozen=frozen,
            data=self.data.name(),
        )

    def smoke(self) -> "TextEncoderTask":
        """A copy for seconds; the model stays as it is."""
        return dataclasses.replace(self, data=self.data.smoke(), eval_captions=8)

    def init(self, model: ModelConfig, key: Array) -> Params:
        """Random parameters."""
        text_key, probe_key = jax.random.split(key)
        heads = probe.init(model.text_encoder.d_model, probe_key)
        return {PART: model.modules.text_encoder.init(model.text_encoder, text_key), "probe": heads}

    def transform(self, caption_row: Row, example: dict[str, Scene], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The tokens of one of the captions of an example, and the factors it tells (-1: left out)."""
        scene, untold = example["scene"], draw_untold(self.untold_share, rng)
        if len(scene.subjects) == 1 and rng.random() < self.untold_share:
            untold.append("subject")
        dropped = bool(rng.random() < self.caption_dropout)
        return probe_row(caption_row, scene, rng, untold, dropped)

    def loss(
        self, encode: Encode, params: Params, batch: dict[str, Array], key: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Traceable; see the class."""
        del key
        text, former = encode(params, batch), encode({PART: params[FORMER]}, batch)
        telling, share = probe.loss(params["probe"], text, batch["length"], batch["factors"])
        apart = distance(text, former, batch["length"])
        return telling + self.closeness * apart, {"probe": telling, "probe_correct": share, "distance": apart}

    def evaluate(
        self, told: Callable, rows: dict[str, np.ndarray], frozen: Params, params: Params, key: Array
    ) -> dict[str, float]:
        """On captions that were not seen: the loss's parts, and the share of factors right in captions of two."""
        params, second = {**params, **frozen}, len(probe.SUBJECT)
        pairs = rows["factors"][:, second] < probe.HEADS[second] - 1
        _, scores = told(params, rows, key)
        _, of_pairs = told(params, {name: value[pairs] for name, value in rows.items()}, key)
        return {name: float(score) for name, score in {**scores, "pairs_correct": of_pairs["probe_correct"]}.items()}

    def export(self, path: Path, model: ModelConfig, params: Params, out: Path) -> None:
        """Write the whole model, with this text encoder in bfloat16."""
        folder.copy_others(path, out, [PART])
        folder.write_part(out, PART, model.text_encoder, params[PART], "bfloat16")


def probe_row(
    caption_row: Row,
    scene: Scene,
    rng: np.random.Generator,
    untold: Collection[str] = (),
    dropped: bool = False,
) -> dict[str, np.ndarray]:
    """The tokens of a caption, and the factors it tells."""
    factors = probe.labels(scene, untold)
    return {
        **caption_row("" if dropped else caption(scene, rng, untold)),
        "factors": np.full_like(factors, -1) if dropped else factors,
    }


def distance(text: Float[Array, "B L D"], other: Float[Array, "B L D"], lengths: Int[Array, "B"]) -> Float[Array, ""]:
    """Mean squared distance of embeddings, of tokens that there are: the others are zero in both."""
    return jnp.sum((text - other) ** 2) / (jnp.sum(lengths) * text.shape[-1])
