"""Training the denoiser and its text encoder: flow matching on latents computed ahead, some frames given."""

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vidjax import tokenizer as tokenizers
from vidjax.checks import number, whole
from vidjax.config import TrainConfig
from vidjax.data.buckets import check_buckets, first_examples
from vidjax.data.source import DataConfig, SceneData
from vidjax.errors import InputError
from vidjax.models import t5
from vidjax.models.wan import camera_adapter, denoiser
from vidjax.models.wan.presets import SamplingDefaults
from vidjax.models.wan.sharding import DENOISER_RULES, TEXT_ENCODER_RULES
from vidjax.models.wan.vae import VAEConfig
from vidjax.parallel.rules import Rules, under
from vidjax.training import camera as cameras
from vidjax.training import caption_swap, places, probe
from vidjax.training.causal import check_causal_share
from vidjax.training.conditioning import Conditioning, conditioned
from vidjax.training.flow_matching import MAX_SHIFT, flow_loss, held_out_losses
from vidjax.training.references import Gallery, num_tokens, untold_captions
from vidjax.training.samples import Parts, sample_clips, stack
from vidjax.training.task import Task
from vidjax.training.texts import token_row
from vidjax.typing import Array, Bool, Float, Params, PyTree
from vidjax.weights import folder

TOKENIZER_CAPTIONS = 4000


@dataclasses.dataclass(frozen=True)
class DenoiserTask(Conditioning):
    """Flow matching: the mean squared error of the velocity over the frames that are not given.

    Args, beside those of `Conditioning`:
      vae: folder with a part ``vae``, as training the autoencoder leaves it.
      text: the text encoder; its vocabulary comes from the captions.
      sampling: the defaults that are published with the model.
      time_shift: mean of the normal whose logistic is the diffusion time.
      text_steps: steps that the text encoder learns alone, at first, to tell the factors of captions; none where
        the data know no factors.
      probe_weight: weight of that loss beside the denoiser's, afterwards.
      place_share: share of examples whose tokens are told where in the picture they are, by a table that is learned and
        not exported. A small transformer with rotary positions alone takes long to find out; what it learns of the
        world when it is told, it can use where it is not.
    """

    vae: str
    model: denoiser.DenoiserConfig
    text: t5.T5Config
    sampling: SamplingDefaults
    time_shift: float = 0.7
    text_steps: int = 1000
    probe_weight: float = 0.3
    place_share: float = 0.0
    eval_clips: int = 64
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: denoiser.Remat = "none"

    @property
    def rules(self) -> Rules:
        """How the parameters are split over a mesh."""
        inside = *under("transformer", DENOISER_RULES), *under("text_encoder", TEXT_ENCODER_RULES)
        return (*inside, *cameras.RULES, (r".*", jax.sharding.PartitionSpec()))

    def _check(self, vae_config: VAEConfig) -> None:
        denoiser.check_config(self.model)
        number("time_shift", self.time_shift, -MAX_SHIFT, MAX_SHIFT)
        whole("eval_clips", self.eval_clips, 1, 2**20)
        whole("sampling.max_text_length", self.sampling.max_text_length, 1, 2**16)
        for name in ("in_channels", "out_channels"):
            if getattr(self.model, name) != vae_config.z_dim:
                raise InputError(
                    f"model.{name}={getattr(self.model, name)}: latents of {self.vae} have {vae_config.z_dim} channels"
                )

    def make(self, config: TrainConfig) -> Task:
        """The task as functions; computes the latents at the first call.

        Raises:
          InputError: the clips are not of a size that the autoencoder and the denoiser take, ``window`` is not what is
            sampled, or these clips have no pictures to be beside.
        """
        vae_config = folder.read_config(Path(self.vae), "vae")
        self._check(vae_config)
        self.check(self.sampling, vae_config.temporal_factor)
        check_causal_share(self.causal_share, self.sampling, vae_config.temporal_factor)
        check_buckets(
            self.data.buckets(), vae_config.temporal_factor, vae_config.spatial_factor * max(self.model.patch_size[1:])
        )
        token = [vae_config.spatial_factor * p for p in self.model.patch_size[1:]]
        places.check_places(self.place_share, self.data.buckets(), token)
        tokenizer = self.tokenizer()
        vae_params = folder.read_part(Path(self.vae), "vae", vae_config, "float32")
        clips = self.open(vae_config, vae_params)
        parts = Parts(
            functools.partial(token_row, tokenizer),
            lambda params, rows: self.encode_text(params, rows["tokens"], rows["length"]),
            self.denoise,
            vae_config,
            self.sampling,
        )
        on_host = jax.device_get(vae_params)
        return Task(
            init=self.init,
            loss=self.loss,
            source=clips.train,
            transform=lambda example, rng: self.transform(tokenizer, example, rng, clips.pictures),
            evaluate=lambda params, key: self.evaluate(params, tokenizer, clips.test, key),
            rules=self.rules,
            export=lambda params, out: self.export(params, out, tokenizer, vae_config, on_host),
            start=self.start if self.text_steps and isinstance(self.data, SceneData) else None,
            tokens=lambda batch: num_tokens(batch, self.model.patch_size),
            data=clips.name,
            sample=lambda params, key: sample_clips(parts, params, on_host, self.data, clips.test, key),
        )

    def smoke(self) -> "DenoiserTask":
        """A copy for seconds; the autoencoder stays as it is."""
        model = dataclasses.replace(self.model, num_layers=2, num_attention_heads=2, ffn_dim=64)
        text = dataclasses.replace(self.text, num_layers=1, d_ff=32)
        few = {"data": self.data.smoke(), "portraits": 8, "eval_clips": 4, "text_steps": 2}
        return dataclasses.replace(self, model=model, text=text, **few)

    def tokenizer(self) -> tokenizers.Tokenizer:
        """Learned from captions of the training clips."""
        untold = bool(self.reference_share)
        return _train_tokenizer(self.data, TOKENIZER_CAPTIONS, self.sampling.max_text_length, untold)

    def text_config(self) -> t5.T5Config:
        """The text encoder with the vocabulary of the tokenizer."""
        vocabulary = tokenizers.processor(self.tokenizer()).vocab_size()
        return dataclasses.replace(self.text, vocab_size=vocabulary)

    def init(self, key: Array) -> Params:
        """Random parameters; the last projection starts at zero."""
        keys = jax.random.split(key, 4)
        transformer = denoiser.init(self.model, keys[0])
        transformer["proj_out"] = jax.tree.map(jnp.zeros_like, transformer["proj_out"])
        text = {"text_encoder": t5.init(self.text_config(), keys[1])}
        if isinstance(self.data, SceneData):
            text["probe"] = probe.init(self.text.d_model, keys[2])
        if self.camera is not None:
            own_key = jax.random.fold_in(key, 4)
            text[cameras.PART] = camera_adapter.init(self.camera.adapter(self.model), own_key)
        if self.place_share:
            text[places.PART] = places.init(self.model.dim, jax.random.fold_in(key, 5))
        return {"transformer": transformer, **text}

    def start(self, abstract: PyTree, key: Array) -> Params:
        """Random parameters, the text encoder's after learning alone."""
        captions = _probe_captions(self.data, self.tokenizer())
        if jax.process_index() == 0:
            print(f"the text encoder learns alone first, {self.text_steps} steps", file=sys.stderr)

        def learned(key: Array) -> Params:
            params = self.init(key)
            others = {name: params.pop(name) for name in ("transformer", cameras.PART, places.PART) if name in params}
            own_key = jax.random.split(key, 4)[3]
            text = probe.pretrain(self.encode_text, params, captions, own_key, self.text_steps)
            return {**others, **text}

        return jax.jit(learned, out_shardings=jax.tree.map(lambda a: a.sharding, abstract))(key)

    def transform(
        self,
        tokenizer: tokenizers.Tokenizer,
        example: dict,
        rng: np.random.Generator,
        pictures: Gallery | None = None,
    ) -> dict[str, Any]:
        """Latents, those of pictures beside the example, the camera's poses, the tokens of one of the captions, and the
        factors, where known, it tells (-1: left out)."""
        row, dropped, untold = self.example(functools.partial(token_row, tokenizer), pictures, example, rng)
        if isinstance(self.data, SceneData):
            labels = probe.labels(self.data.scene(example), untold)
            row["factors"] = np.full_like(labels, -1) if dropped else labels
        if self.place_share:
            row["placed"] = np.bool_(rng.random() < self.place_share)
        return row

    def encode_text(self, params: Params, tokens: Array, lengths: Array) -> Float[Array, "B L D"]:
        """Text embeddings."""
        return t5.encode(self.text_config(), params["text_encoder"], tokens, lengths, jnp.dtype(self.dtype))

    def velocity(
        self,
        params: Params,
        batch: dict[str, Array],
        x: Array,
        t: Float[Array, "B f"],
        causal: bool | Bool[Array, ""] = False,
    ) -> Array:
        """What the denoiser says of noisy latents of a batch."""
        text = self.encode_text(params, batch["tokens"], batch["length"])
        return self.answer(text, params, batch, x, t, causal)

    def answer(
        self,
        text: Float[Array, "B L D"],
        params: Params,
        batch: dict[str, Array],
        x: Array,
        t: Float[Array, "B f"],
        causal: bool | Bool[Array, ""] = False,
    ) -> Array:
        """The same, with the text encoded: what is said beside the pictures of the batch, under its camera."""
        adapter = None if self.camera is None else self.camera.adapter(self.model)
        dtype = jnp.dtype(self.dtype)
        denoise = functools.partial(self.denoise, placed=batch.get("placed"))
        return conditioned(denoise, adapter, text, params, batch, x, t, causal, dtype)

    def denoise(
        self,
        text: Float[Array, "B L D"],
        params: Params,
        x: Array,
        t: Float[Array, "B f"],
        frames: np.ndarray | None = None,
        causal: bool | Bool[Array, ""] = False,
        added: Float[Array, "B f2 s E"] | None = None,
        placed: Bool[Array, "B"] | None = None,
    ) -> Array:
        """What the denoiser says of noisy latents with this text, at these positions in time; clips that are ``placed``
        have their tokens told where they are."""
        own, dtype = params["transformer"], jnp.dtype(self.dtype)
        if placed is not None:
            grid = tuple(n // p for n, p in zip(x.shape[1:4], self.model.patch_size, strict=True))
            added = places.add(params[places.PART], placed, grid, added)
        context = denoiser.context(self.model, own, text, dtype=dtype)
        how = {"dtype": dtype, "remat": self.remat, "causal": causal, "added": added}
        return denoiser.velocity(self.model, own, x, t, context, frames, **how)

    def loss(self, params: Params, batch: dict[str, Array], key: Array) -> tuple[Array, dict[str, Array]]:
        """Traceable; see the class."""
        text = self.encode_text(params, batch["tokens"], batch["length"])

        def velocity(params: Params, batch: dict[str, Array], x: Array, t: Array, **kind: Array) -> Array:
            # The text is encoded once, for the probe too.
            return self.answer(text, params, batch, x, t, **kind)

        shares = {"given_share": self.given_share, "causal_share": self.causal_share}
        past = self.past_time(self.sampling)
        flow = flow_loss(velocity, params, batch, key, self.time_shift, **shares, past_noise=past)
        if "probe" not in params:
            return flow, {"flow": flow}
        telling, share = probe.loss(params["probe"], text, batch["length"], batch["factors"])
        return flow + self.probe_weight * telling, {"flow": flow, "probe": telling, "probe_correct": share}

    def evaluate(self, params: Params, tokenizer: tokenizers.Tokenizer, source: Any, key: Array) -> dict[str, float]:
        """The loss on held-out clips at some diffusion times and, where scenes are known, what wrong words cost."""
        if isinstance(self.data, SceneData):
            row, (examples,) = functools.partial(token_row, tokenizer), first_examples(source, self.eval_clips)
            causal = self.causal_share > 0
            return caption_swap.evaluate(self.velocity, params, self.data, row, examples, key, causal)
        told = dataclasses.replace(self, caption_dropout=0.0)
        batches = []
        for examples in first_examples(source, self.eval_clips):
            rows = [told.transform(tokenizer, e, np.random.default_rng(i)) for i, e in enumerate(examples)]
            batches.append(stack(rows))
        return held_out_losses(self.velocity, params, batches, key, self.causal_share > 0)

    def export(self, params: Params, out: Path, tokenizer: Any, vae_config: Any, vae_params: Params) -> None:
        """Write a whole model folder; the denoiser and text encoder in bfloat16, the autoencoder in float16."""
        out.mkdir(parents=True, exist_ok=True)
        folder.write_part(out, "transformer", self.model, params["transformer"], "bfloat16")
        folder.write_part(out, "text_encoder", self.text_config(), params["text_encoder"], "bfloat16")
        folder.write_part(out, "vae", vae_config, vae_params, "float16")
        if self.camera is not None:
            adapter = self.camera.adapter(self.model)
            folder.write_part(out, cameras.PART, adapter, params[cameras.PART], "bfloat16")
        folder.write_tokenizer(out, tokenizer.spiece, tokenizer.max_length)
        learned = {"given": "any" if self.given_share else "first", "causal": False}
        sampling = dataclasses.replace(self.sampling, **learned | self.learned())
        folder.write_index(out, sampling.flow_shift, True, dataclasses.asdict(sampling))


@functools.lru_cache(maxsize=4)
def _train_tokenizer(data: DataConfig, captions: int, max_length: int, untold: bool) -> tokenizers.Tokenizer:
    texts = data.captions(captions)
    return tokenizers.train([*texts, *untold_captions(data, captions // 4)] if untold else texts, max_length)


@functools.lru_cache(maxsize=4)
def _probe_captions(data: SceneData, tokenizer: tokenizers.Tokenizer) -> probe.Captions:
    tokens = tokenizers.tokenize(tokenizer, data.captions(data.num_clips))
    factors = np.stack([probe.labels(scene) for scene in data.scenes(data.num_clips)])
    return probe.Captions(tokens.ids, tokens.lengths, factors)
