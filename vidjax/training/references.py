"""Examples beside pictures: of their subject, so that the caption need not tell who it is, or in their style.

A batch is of one bucket, whose examples have as many pictures; the loss, traced for each kind, uses what is there.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidjax.checks import whole
from vidjax.conditioning.references import MAX_REFERENCES, PlacedDenoiser, with_references
from vidjax.data.buckets import Bucketed, sources_of
from vidjax.data.latents import Latents, open_latents
from vidjax.data.shapes import caption
from vidjax.data.shapes.portraits import Portraits
from vidjax.data.shapes.stills import Stills
from vidjax.data.source import DataConfig, SceneData
from vidjax.errors import InputError
from vidjax.models.wan.vae import VAEConfig
from vidjax.typing import Array, Float, Params

TOLD = 0.2
"""How often a caption tells who the subject is although pictures show it."""

COUNTS = {1: 1 / 2, 2: 1 / 4, 3: 1 / 4}
"""Shares of examples by how many pictures of their subject they have."""


class Pictures(NamedTuple):
    """Latents of all pictures that examples can be beside: [n, 1, h, w, z]; portraits only where some are."""

    portraits: Latents | None
    stills: Latents


Gallery = Mapping[tuple[int, int], Pictures]
"""Pictures for clips of each size, by the height and width of their latents."""


class Seen(NamedTuple):
    """What is beside an example: ``latents``, under the names of their part in a batch, and what they ``show``."""

    latents: dict[str, Float[np.ndarray, "n h w z"]]
    show: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Beside:
    """Examples of a source, its ``rows``; each says what is to be beside it: so many ``references``, a ``style``."""

    source: Any
    rows: np.ndarray
    references: int
    style: bool

    @property
    def pictures(self) -> int:
        """How many are beside each example."""
        return self.references + self.style

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.source[int(self.rows[index])], "beside": (self.references, self.style)}


def check_shares(data: DataConfig, reference_share: float, style_share: float, portraits: int) -> None:
    """See that such shares of the examples can be beside pictures.

    Raises:
      InputError: they leave nothing without, or of these clips it is not known what is to be seen, or of a subject
        there are fewer portraits than an example may have.
    """
    whole("portraits", portraits, MAX_REFERENCES, 2**20)
    shares = {"reference_share": reference_share, "style_share": style_share}
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise InputError(f"{name}={share}: must lie in [0, 1)")
        if share and not isinstance(data, SceneData):
            kind = type(data).__name__
            raise InputError(f"{name}={share}: {kind} has no pictures of its subjects; the shapes world, ClipData, has")
    if reference_share + style_share >= 1:
        raise InputError(f"reference_share={reference_share}, style_share={style_share}: must leave examples without")


def open_pictures(config: VAEConfig, params: Params, data: SceneData, folder: Path, portraits: int) -> Gallery:
    """Latents of so many portraits of every subject and of stills in every style, computed at first and kept."""

    def of(name: str, source: Portraits | Stills) -> Latents:
        return open_latents(config, params, source, folder, f"{name}-{source.height}x{source.width}-{source.each}")

    gallery = {}
    for size in dict.fromkeys((bucket.height, bucket.width) for bucket in data.buckets()):
        subjects = of("portraits", Portraits(*size, portraits)) if portraits else None
        pictures = Pictures(subjects, of("stills", Stills(*size)))
        gallery[pictures.stills.latents.shape[2:4]] = pictures
    return gallery


def with_pictures(source: Any, data: SceneData, reference_share: float, style_share: float) -> Bucketed:
    """The examples of a source, and again beside pictures: these shares of what is drawn.

    Beside a style half of the examples have a picture of their subject too, if some have. Those are of one subject.
    """
    kinds = [(count, False, reference_share * share) for count, share in COUNTS.items()]
    beside_style = (0, 1) if reference_share else (0,)
    kinds += [(count, True, style_share / len(beside_style)) for count in beside_style]
    parts = [(one, (1 - reference_share - style_share) * len(one)) for one in sources_of(source)]
    for one in sources_of(source):
        single = [i for i in range(len(one)) if len(data.scene(one[i]).subjects) == 1]
        for count, style, share in kinds:
            rows = np.asarray(single if count else range(len(one)), np.int64)
            parts.append((Beside(one, rows, count, style), share * len(one)))
    return Bucketed(*zip(*((part, weight) for part, weight in parts if weight), strict=True))


def see(data: DataConfig, gallery: Gallery | None, example: Mapping[str, Any], rng: np.random.Generator) -> Seen:
    """Pictures for an example, where it says that some are beside it; which ones is ``rng``'s choice."""
    references, style = example.get("beside", (0, False))
    if not references and not style:
        return Seen({}, ())
    scene, latents, show = data.scene(example), {}, []
    pictures = gallery[example["latents"].shape[1:3]]
    if references:
        of = pictures.portraits.source.of(scene.subjects[0])
        latents["references"] = pictures.portraits.latents[rng.choice(of, references, replace=False), 0]
        if rng.random() >= TOLD:
            show.append("subject")
    if style:
        like = pictures.stills.source.like(scene)
        latents["style"] = pictures.stills.latents[rng.choice(like, 1), 0]
        show.append("style")
    return Seen({name: np.asarray(value, np.float32) for name, value in latents.items()}, show)


def tell(data: DataConfig, example: dict[str, Any], rng: np.random.Generator, untold: Collection[str]) -> str:
    """One of the captions of an example, without what is to be ``untold``: only a `SceneData` can leave that out."""
    return data.caption(example, rng, untold) if untold else data.caption(example, rng)


def untold_captions(data: SceneData, count: int) -> list[str]:
    """Captions of the first training scenes, of those with one subject, that do not tell who it is."""
    single = [scene for scene in data.scenes(count) if len(scene.subjects) == 1]
    return [caption(scene, np.random.default_rng(i), ("subject",)) for i, scene in enumerate(single)]


def beside(
    denoise: PlacedDenoiser, batch: Mapping[str, Array]
) -> Callable[[Float[Array, "B f h w c"], Float[Array, "B f"]], Float[Array, "B f h w c"]]:
    """A denoiser that sees the pictures of a batch, if it has some."""
    return with_references(denoise, batch.get("references"), batch.get("style"))


def num_tokens(batch: Mapping[str, Any], patch: Sequence[int]) -> int:
    """Tokens of the clips of a batch and of its pictures."""
    latents = (batch[name].shape[:4] for name in ("latents", "references", "style") if name in batch)
    return sum(map(math.prod, latents)) // math.prod(patch)


def taught(reference_share: float, style_share: float) -> dict[str, Any]:
    """What the sampling defaults say of a model that was trained so."""
    found = {"references": MAX_REFERENCES} if reference_share else {}
    return {**found, "style_image": True} if style_share else found
