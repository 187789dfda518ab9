"""The report as one HTML file that needs nothing else: the scores, and clips that came out right beside wrong ones."""

import base64
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from vidjax.checks import try_folder
from vidjax.errors import InputError
from vidjax.evaluate.adherence import Examined, Looked, Word
from vidjax.evaluate.report import HEADER, Row
from vidjax.video import Video

SHOWN = 24
"""Clips on the page, beside the long ones."""

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd; font-weight: normal }
th { color: #666 } td:first-child { text-align: left }
.clips { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem 2rem }
figure { margin: 0; padding: .8rem; border: 1px solid #ddd; border-radius: 6px }
.pair { display: flex; gap: .6rem } .pair div { flex: 1; color: #666; font-size: 13px }
video { width: 100%; image-rendering: pixelated; display: block }
figcaption { margin-top: .5rem } .words { font-size: 13px }
.right { color: #1a7f37 } .wrong { color: #b3261e; font-weight: 600 }
"""

# The page may show what is in it, and nothing else.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; media-src data:"


def check_page(path: str | Path) -> Path:
    """The path, if a page can be written there: asked before anything expensive.

    Raises:
      InputError: it does not end in .html, or its folder is not there or may not be written to.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{str(path)!r} does not end in .html: the report is a page")
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise InputError(f"{str(path)!r}: its folder does not exist")
    try:
        try_folder(path.parent)
    except OSError as error:
        raise InputError(f"{str(path)!r}: its folder may not be written to ({error.strerror})") from None
    return path


def write_page(path: str | Path, examined: Examined, about: Mapping[str, str]) -> Path:
    """Writes ``make_page``'s page, whole or not at all.

    Raises:
      InputError: it cannot be written.
    """
    path = check_page(path)
    partial = path.with_name(f".{secrets.token_hex(8)}.html")
    try:
        partial.write_text(make_page(examined, about), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{str(path)!r} could not be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def make_page(examined: Examined, about: Mapping[str, str]) -> str:
    """HTML with the clips in it; ``about`` says by name what was evaluated."""
    right, wrong = choose(examined.clips)
    count = sum(not _wrong(clip) for clip in examined.clips)
    body = [
        "<h1>vidjax evaluate</h1>",
        "<p>" + "<br>".join(f"{escape(name)}: {escape(value)}" for name, value in about.items()) + "</p>",
        _table(examined.report.rows()),
        "<p>rendered: the same measures of renderings of the prompts; autoencoder: of these after the autoencoder, "
        "about what a perfect denoiser would reach. flicker: change that is taken back in the next frame; "
        "dynamic_degree: change from frame to frame; joint_flicker: jumps where windows meet, against those inside "
        "windows.</p>",
        f"<h2>Clips</h2><p>In {count} of {len(examined.clips)} every word that is judged is to be seen; of two "
        "subjects that is both colours, and not which is where, its size or its shape. Left: the first of these; "
        "right: the first of the others. Neither is a choice of the best or the worst.</p>",
        _beside(right, wrong),
    ]
    if examined.long:
        body += [
            "<h2>Long clips</h2><p>Judged by their last seconds.</p>",
            f'<div class="clips">{"".join(map(_figure, examined.long))}</div>',
        ]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>vidjax evaluate</title><style>{STYLE}</style>"
    )
    lines = "\n".join(body)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n{lines}\n</body></html>\n'


def choose(clips: Sequence[Looked], count: int = SHOWN) -> tuple[list[Looked], list[Looked]]:
    """The first clips in which all is right, and the first of the others: half each, or what there is."""
    right = [clip for clip in clips if not _wrong(clip)]
    wrong = [clip for clip in clips if _wrong(clip)]
    half = count // 2
    rights = right[: max(half, count - len(wrong))]
    return rights, wrong[: count - len(rights)]


def _wrong(clip: Looked) -> list[Word]:
    return [word for word in clip.words if not word.right]


def _table(rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in HEADER)
    lines = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _beside(left: Sequence[Looked], right: Sequence[Looked]) -> str:
    """Two columns while both last."""
    both = min(len(left), len(right))
    pairs = [clip for pair in zip(left, right, strict=False) for clip in pair]
    return f'<div class="clips">{"".join(map(_figure, [*pairs, *left[both:], *right[both:]]))}</div>'


def _figure(clip: Looked) -> str:
    # The way of what moves is its action, said once.
    words = " · ".join(_word(word) for word in clip.words if word.name != "motion")
    return (
        f'<figure><div class="pair"><div>{_embedded(clip.clip)}made, seed {clip.seed}</div>'
        f"<div>{_embedded(clip.rendered)}rendered</div></div>"
        f'<figcaption>{escape(clip.prompt)}<div class="words">{words}</div></figcaption></figure>'
    )


def _word(word: Word) -> str:
    if word.right:
        return f'<span class="right">✓ {escape(word.name)}: {escape(word.asked)}</span>'
    return f'<span class="wrong">✗ {escape(word.name)}: {escape(word.seen)}, not {escape(word.asked)}</span>'


def _embedded(video: Video) -> str:
    with tempfile.TemporaryDirectory() as folder:
        data = base64.b64encode(video.save(Path(folder) / "clip.mp4").read_bytes()).decode()
    return f'<video autoplay loop muted playsinline src="data:video/mp4;base64,{data}"></video>'
