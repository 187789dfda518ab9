"""Fine-tuning a published model: its denoiser goes on learning, whole or by low-rank changes; the rest is frozen."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.checks import number, whole
from vidjax.config import TrainConfig
from vidjax.data.buckets import check_buckets, first_examples
from vidjax.data.source import ListedData, SceneData
from vidjax.errors import InputError
from vidjax.model import ModelConfig, bundled, part_layout, read_config
from vidjax.models.wan.camera_adapter import CameraAdapterConfig
from vidjax.models.wan.denoiser import Remat
from vidjax.parallel.mesh import make_mesh
from vidjax.parallel.rules import Rules, under
from vidjax.training import camera as cameras
from vidjax.training import caption_swap
from vidjax.training import lora as low_rank
from vidjax.training.causal import check_causal_model
from vidjax.training.conditioning import Conditioning, conditioned, latents_row
from vidjax.training.flow_matching import MAX_SHIFT, BatchVelocity, flow_loss, held_out_losses
from vidjax.training.lora import LoRAConfig
from vidjax.training.references import Gallery, num_tokens
from vidjax.training.samples import Denoise, Encode, Parts, Row, sample_clips, stack
from vidjax.training.task import Task
from vidjax.training.texts import encoded_ahead, encoded_in_step
from vidjax.typing import Array, Bool, Float, Params, PyTree
from vidjax.video import Video
from vidjax.weights import folder, hub
from vidjax.weights.lora import write as write_lora

LORA_FILE = "pytorch_lora_weights.safetensors"


@dataclasses.dataclass(frozen=True)
class FinetuneTask(Conditioning):
    """Flow matching from a model's weights on; text encoder and autoencoder stay as they are.

    Where the captions are written down, the text encoder is not in memory during training: their embeddings are
    computed at the first call, as latents are. A camera adapter is the model's own, or a new one; it is exported as a
    part of the model, beside a LoRA's file as a folder to put into that of the model.

    Args, beside those of `Conditioning`:
      model: a folder in the published layout or a hub id; None: the bundled model.
      lora: train low-rank changes, exported as a file for ``loras``; None: the whole denoiser, exported as a model.
      part: which denoiser, of a model with two; it learns at the diffusion times that it is used for.
      time_shift: mean of the normal whose logistic is the diffusion time; None: the logarithm of the model's own
        ``flow_shift``, so that training sees the times that sampling goes through.
      dtype: what is computed in; trained parameters, their moments and average are float32.
    """

    model: str | None = None
    lora: LoRAConfig | None = LoRAConfig()
    part: Literal["transformer", "transformer_2"] = "transformer"
    time_shift: float | None = None
    eval_clips: int = 64
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"

    def make(self, config: TrainConfig) -> Task:
        """The task as functions; computes latents and embeddings at the first call.

        Raises:
          InputError: the model has no such denoiser or is given pictures as channels, or the clips do not fit it or
            have no pictures to be beside.
        """
        path = bundled() if self.model is None else hub.find(self.model)
        model = dataclasses.replace(read_config(path), dtype=self.dtype)
        self._check(path, model)
        mesh = make_mesh(**dataclasses.asdict(config.mesh))
        autoencoder = folder.read_part(path, "vae", model.vae, "float32")
        clips = self.open(model.vae, autoencoder)
        if isinstance(self.data, ListedData):
            place = Path(self.data.folder).expanduser() / "embeddings"
            texts = encoded_ahead(path, model, ["", *self.data.written()], place)
        else:
            texts = encoded_in_step(path, model, mesh)
        held = dict(texts.frozen)
        if self.lora is not None:
            layout = part_layout(self.part, model, mesh)
            held[self.part] = folder.read_part(path, self.part, model.parts[self.part], self.dtype, layout)
        denoise = functools.partial(self.denoise, model)
        velocity = functools.partial(self.velocity, model, texts.encode, denoise)
        parts = Parts(texts.row, texts.encode, denoise, model.vae, model.sampling)
        autoencoder = jax.device_get(autoencoder)

        def sample(params: Params, key: Array) -> dict[str, Video]:
            return sample_clips(parts, {**params, **held}, autoencoder, self.data, clips.test, key)

        return Task(
            init=functools.partial(self.init, model),
            loss=functools.partial(self.loss, model, velocity),
            source=clips.train,
            transform=functools.partial(self._transform, texts.row, clips.pictures),
            evaluate=lambda params, key: self._evaluate(velocity, {**params, **held}, texts.row, clips.test, key),
            rules=self.rules(model),
            export=functools.partial(self._export, path, model),
            start=functools.partial(self._start, path, model) if self._read(model) else None,
            tokens=lambda batch: num_tokens(batch, model.transformer.patch_size),
            sample=sample if model.boundary_ratio is None else None,  # half a walk shows nothing
            frozen=held,
            data=clips.name,
        )

    def smoke(self) -> "FinetuneTask":
        """A copy for seconds; the model stays as it is."""
        return dataclasses.replace(self, data=self.data.smoke(), portraits=8, eval_clips=4)

    def _check(self, path: Path, model: ModelConfig) -> None:
        if self.part not in model.parts:
            raise InputError(f"part={self.part}: {path} has one denoiser, transformer")
        self.check(model.sampling, model.vae.temporal_factor)
        whole("eval_clips", self.eval_clips, 1, 2**20)
        if self.time_shift is not None:
            number("time_shift", self.time_shift, -MAX_SHIFT, MAX_SHIFT)
        if self.lora is not None and (self.reference_share or self.style_share):
            raise InputError(
                "reference_share, style_share: a LoRA cannot say that pictures can be given; give lora=none"
            )
        own = model.sampling.past_noise
        if self.lora is not None and self.past_time(model.sampling) != own:
            raise InputError(
                f"past_noise={self.past_noise} with lora: the model goes on from {own}; give none, or lora=none"
            )
        jax.eval_shape(functools.partial(self.init, model), jax.random.key(0))
        if model.pictures == "channels":
            raise InputError(f"{path} is given pictures as channels; models that are made from words can be fine-tuned")
        check_causal_model(self.causal_share, model, self.lora is not None)
        check_buckets(self.data.buckets(), model.vae.temporal_factor, max(model.size_multiple))

    def rules(self, model: ModelConfig) -> Rules:
        """How what is trained is split over a mesh."""
        own = under(self.part, model.modules.rules[self.part]) if self.lora is None else low_rank.RULES
        return (*own, *cameras.RULES)

    def init(self, model: ModelConfig, key: Array) -> Params:
        """What is trained, drawn; the denoiser and an adapter of the model's own are to be read instead."""
        camera = {}
        if self.camera is not None:
            camera[cameras.PART] = model.modules.camera_adapter.init(self.adapter(model), jax.random.fold_in(key, 1))
        if self.lora is None:
            return {self.part: model.modules.denoiser.init(model.transformer, key), **camera}
        abstract = folder.abstract_params("transformer", model.transformer)
        return {"lora": low_rank.init(self.lora, abstract, key), **camera}

    def adapter(self, model: ModelConfig) -> CameraAdapterConfig:
        """The camera adapter that is trained."""
        return model.camera_adapter or self.camera.adapter(model.transformer)

    def _read(self, model: ModelConfig) -> list[str]:
        """The trained parts that are read from the model's folder, and not drawn."""
        adapter = self.camera is not None and model.camera_adapter is not None
        return [self.part] * (self.lora is None) + [cameras.PART] * adapter

    def _start(self, path: Path, model: ModelConfig, abstract: PyTree, key: Array) -> Params:
        layout = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        read = self._read(model)

        def drawn(key: Array) -> Params:
            return {name: value for name, value in self.init(model, key).items() if name not in read}

        others = {name: part for name, part in layout.items() if name not in read}
        parts = {name: folder.read_part(path, name, model.parts[name], "float32", layout[name]) for name in read}
        return parts | jax.jit(drawn, out_shardings=others)(key)

    def _transform(
        self, caption_row: Row, pictures: Gallery | None, example: dict, rng: np.random.Generator
    ) -> dict[str, Any]:
        return self.example(caption_row, pictures, example, rng).row

    def _evaluate(
        self, velocity: BatchVelocity, params: Params, caption_row: Row, source: Any, key: Array
    ) -> dict[str, float]:
        """The loss on held-out clips at some diffusion times and, where scenes are known, what wrong words cost."""
        if isinstance(self.data, SceneData):
            (examples,), causal = first_examples(source, self.eval_clips), self.causal_share > 0
            return caption_swap.evaluate(velocity, params, self.data, caption_row, examples, key, causal)

        def row(example: dict, i: int) -> dict[str, np.ndarray]:
            return latents_row(caption_row, example, self.data.caption(example, np.random.default_rng(i)))

        batches = [
            stack([row(example, i) for i, example in enumerate(examples)])
            for examples in first_examples(source, self.eval_clips)
        ]
        return held_out_losses(velocity, params, batches, key, self.causal_share > 0)

    def velocity(
        self,
        model: ModelConfig,
        encode: Encode,
        denoise: Denoise,
        params: Params,
        batch: dict[str, Array],
        x: Array,
        t: Float[Array, "B f"],
        causal: bool | Bool[Array, ""] = False,
    ) -> Float[Array, "B f h w c"]:
        """What the denoiser says of noisy latents of a batch."""
        adapter = None if self.camera is None else self.adapter(model)
        text, dtype = encode(params, batch), jnp.dtype(self.dtype)
        return conditioned(denoise, adapter, text, params, batch, x, t, causal, dtype)

    def denoise(
        self,
        model: ModelConfig,
        text: Float[Array, "B L D"],
        params: Params,
        x: Array,
        t: Float[Array, "B f"],
        frames: np.ndarray | None = None,
        causal: bool | Bool[Array, ""] = False,
        added: Float[Array, "B f2 s E"] | None = None,
    ) -> Float[Array, "B f h w c"]:
        """What the denoiser says of noisy latents with this text, at these positions in time."""
        modules, dtype = model.modules, jnp.dtype(self.dtype)
        denoiser = params[self.part]
        if self.lora is not None:
            denoiser = low_rank.merged(denoiser, params["lora"], self.lora.strength)
        context = modules.denoiser.context(model.transformer, denoiser, text, dtype=dtype)
        how = {"dtype": dtype, "remat": self.remat, "causal": causal, "added": added}
        return modules.denoiser.velocity(model.transformer, denoiser, x, t, context, frames, **how)

    def loss(
        self, model: ModelConfig, velocity: BatchVelocity, params: Params, batch: dict[str, Array], key: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Traceable; see the class."""
        shift = math.log(model.sampling.flow_shift) if self.time_shift is None else self.time_shift
        given_share = self.given_share if model.pictures == "frames" else 0.0
        past = self.past_time(model.sampling)
        shares = {"given_share": given_share, "causal_share": self.causal_share}
        loss = flow_loss(velocity, params, batch, key, shift, **shares, times=self._times(model), past_noise=past)
        return loss, {"flow": loss}

    def _times(self, model: ModelConfig) -> tuple[float, float]:
        """The diffusion times that the denoiser is used for."""
        if model.boundary_ratio is None:
            return 0.0, 1.0
        return (model.boundary_ratio, 1.0) if self.part == "transformer" else (0.0, model.boundary_ratio)

    def _export(self, path: Path, model: ModelConfig, params: Params, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        if self.lora is not None:
            abstract = folder.abstract_params("transformer", model.transformer)
            write_lora(out / LORA_FILE, abstract, params["lora"], self.lora.strength)
            self._export_adapter(model, params, out)
            return
        folder.copy_others(path, out, [self.part])
        folder.write_part(out, self.part, model.transformer, params[self.part], "bfloat16")
        self._export_adapter(model, params, out)
        learned = {"given": "any"} if model.pictures == "frames" and self.given_share else {}
        learned |= self.learned()
        if learned:
            sampling = dataclasses.replace(model.sampling, **learned)
            folder.write_json(out / "sampling.json", dataclasses.asdict(sampling))

    def _export_adapter(self, model: ModelConfig, params: Params, out: Path) -> None:
        if self.camera is not None:
            folder.write_part(out, cameras.PART, self.adapter(model), params[cameras.PART], "bfloat16")
