"""Text embeddings computed ahead, for text encoders that stay as they are: the encoder need not be in memory then."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Float
from tqdm import tqdm

from vidjax.data.records import write_json
from vidjax.errors import InputError
from vidjax.typing import Array

BLOCK = 512
"""Captions of a file; what is lost when it is cut off."""

Encode = Callable[[Sequence[str]], tuple[Array, Array]]
"""Texts to embeddings [B, L, D] and lengths [B]."""


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Embeddings by caption: ``embeddings[text]`` is [tokens, D], float16, without padding; read from disk."""

    folder: Path
    places: dict[str, tuple[int, int, int]]
    """Block, first row and rows of each caption."""

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, text: str) -> Float[np.ndarray, "tokens D"]:
        if text not in self.places:
            raise InputError(f"there is no embedding of {text!r} in {self.folder}")
        block, start, rows = self.places[text]
        return np.array(np.load(_rows(self.folder, block), mmap_mode="r")[start : start + rows])

    def padded(self, text: str, length: int) -> Float[np.ndarray, "L D"]:
        """An embedding with zeros after it, as text encoders give it."""
        found = self[text][:length]
        return np.pad(found, ((0, length - len(found)), (0, 0)))


def open_embeddings(
    make_encoder: Callable[[], Encode], captions: Iterable[str], folder: Path, batch_size: int = 16
) -> Embeddings:
    """Embeddings of all ``captions``, kept in ``folder``, whose name should change with the text encoder.

    Those that are not there yet are computed, block after block: cut off, it goes on with the next block, and more
    captions later cost only themselves. Of several processes one computes, and the others wait for it; an encoder is
    made only then, and let go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = dict.fromkeys(captions)
    if wanted.keys() - _places(folder).keys():
        with FileLock(folder / ".lock"):
            places = _places(folder)
            missing = [text for text in wanted if text not in places]
            encode = make_encoder() if missing else None
            first = 1 + max((block for block, _, _ in places.values()), default=-1)
            with tqdm(total=len(missing), desc="text embeddings", unit="caption", disable=not missing) as bar:
                for number, start in enumerate(range(0, len(missing), BLOCK), first):
                    _compute(encode, missing[start : start + BLOCK], folder, number, batch_size, bar)
    return Embeddings(folder, _places(folder))


def _compute(encode: Encode, texts: Sequence[str], folder: Path, block: int, batch_size: int, bar: tqdm) -> None:
    rows = []
    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size]
        # The last batch is filled up, so that one compilation serves all.
        found, lengths = encode([*batch, *[batch[-1]] * (batch_size - len(batch))])
        found, lengths = np.asarray(found, np.float16), np.asarray(lengths)
        rows += [found[i, : lengths[i]] for i in range(len(batch))]
        bar.update(len(batch))
    temporary = folder / f".{block:06d}.npy"
    np.save(temporary, np.concatenate(rows))
    os.replace(temporary, _rows(folder, block))
    # Written last: a block without it is not there.
    write_json(folder / f"{block:06d}.json", [[text, len(row)] for text, row in zip(texts, rows, strict=True)])


def _places(folder: Path) -> dict[str, tuple[int, int, int]]:
    places = {}
    for path in sorted(folder.glob("*.json")):
        start = 0
        for text, rows in json.loads(path.read_text()):
            places[text] = (int(path.stem), start, rows)
            start += rows
    return places


def _rows(folder: Path, block: int) -> Path:
    return folder / f"{block:06d}.npy"
