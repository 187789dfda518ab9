"""Training an autoencoder's decoder alone: better pictures of the same latents, for every denoiser that knows them."""

import dataclasses
from pathlib import Path

import jax
from jax.sharding import NamedSharding, PartitionSpec

from vidjax.config import TrainConfig
from vidjax.data.source import ClipData, DataConfig
from vidjax.models.wan import vae
from vidjax.parallel.mesh import make_mesh
from vidjax.training.adversarial import Adversarial
from vidjax.training.autoencoder import AutoencoderTask, own_params
from vidjax.training.perceptual import Perceptual
from vidjax.training.task import Task
from vidjax.typing import Array, Params, PyTree
from vidjax.weights import folder


@dataclasses.dataclass(frozen=True)
class DecoderTask:
    """The loss of `AutoencoderTask` without its Kullback-Leibler term; the encoder and the statistics stay as they are.

    Args:
      vae: a model folder, whose part ``vae`` it is.
      decoder_base_dim: the width of a new decoder, which learns from nothing; None: the folder's own goes on learning.

    The others are those of `AutoencoderTask`.
    """

    vae: str
    decoder_base_dim: int | None = None
    data: DataConfig = ClipData()
    crop_frames: int = 9
    picture_share: float = 0.0
    mse_weight: float = 2.0
    eval_clips: int = 32
    perceptual: Perceptual | None = None
    adversarial: Adversarial | None = None

    def make(self, config: TrainConfig) -> Task:
        """The task as functions; opens the data.

        Raises:
          InputError: as of `AutoencoderTask`.
          WeightsError: the folder's autoencoder, or the weights of the perceptual term, cannot be read.
        """
        place = Path(self.vae).expanduser()
        stored = folder.read_config(place, "vae")
        model = dataclasses.replace(stored, decoder_base_dim=self.decoder_base_dim or stored.decoder_base_dim)
        whole = self._autoencoder(model, start=self.vae if model == stored else None).make(config)
        everywhere = NamedSharding(make_mesh(**dataclasses.asdict(config.mesh)), PartitionSpec())
        read = folder.read_part(place, "vae", stored, "float32")
        encoder = {name: jax.device_put(read[name], everywhere) for name in vae.ENCODER}

        def start(abstract: PyTree, key: Array) -> Params:
            return _trained(whole.start({**abstract, **encoder}, key))

        def export(params: Params, out: Path) -> None:
            folder.write_part(out, "vae", model, own_params({**encoder, **params}))

        return whole._replace(
            init=lambda key: _trained(whole.init(key)),
            start=None if whole.start is None else start,
            evaluate=lambda params, key: whole.evaluate({**encoder, **params}, key),
            sample=lambda params, key: whole.sample({**encoder, **params}, key),
            export=export,
            frozen={**whole.frozen, **encoder},
        )

    def _autoencoder(self, model: vae.VAEConfig, start: str | None) -> AutoencoderTask:
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del shared["vae"], shared["decoder_base_dim"]
        return AutoencoderTask(model, kl_weight=0.0, start=start, **shared)

    def smoke(self) -> "DecoderTask":
        """A copy for seconds; the autoencoder stays as it is."""
        return dataclasses.replace(self, data=self.data.smoke(), eval_clips=2)


def _trained(params: Params) -> Params:
    """All but what makes the latents."""
    return {name: part for name, part in params.items() if name not in vae.ENCODER}
