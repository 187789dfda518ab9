"""Clips for VBench: found under the names that its programs look for, none twice, all made in one way."""

import json

import numpy as np
import pytest

import vidjax
from vidjax.errors import InputError
from vidjax.evaluate.vbench import MANIFEST, clip_name, export, read_prompts
from vidjax.video import read_video

PROMPTS = ["In a still frame, a stop sign", "a red circle: 100%?"]
QUICK = {"num_frames": 1, "num_inference_steps": 2}


@pytest.fixture
def prompts(tmp_path):
    """Writes a file of prompts."""

    def write(text: str):
        path = tmp_path / "prompts.txt"
        path.write_bytes(text.encode())
        return path

    return write


def test_prompts_are_read_as_vbench_does(prompts):
    """Its loop strips lines and writes a prompt's files over those of the same prompt before."""
    path = prompts("\ufeffa cat \r\n\n  a dog\na cat\nÜber\u2028wasser\n")
    assert read_prompts(path) == ["a cat", "a dog", "Über\u2028wasser"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a cat\na cat and/or a dog", r"line 2: prompt 'a cat and/or a dog': .* no file name has a /"),
        ("a\0b", r"line 1: .* no file name has a \\0"),
        ("x" * 250, "line 1: .* would have 256 bytes, and files 255 at most"),
        ("\u00e9" * 125, "would have 256 bytes"),
        (" \n\n", "has no prompt: one a line is expected"),
    ],
)
def test_bad_prompts_are_refused(tiny, prompts, tmp_path, compilations, text, said):
    """With the line, before anything is made: a campaign of 4,730 clips takes days."""
    with pytest.raises(InputError, match=said):
        export(tiny, prompts(text), tmp_path / "clips")
    assert not compilations
    assert not (tmp_path / "clips").exists()


def test_names_just_short_enough(prompts):
    """All 255 bytes may be used, and the number of clips counts."""
    path = prompts("x" * 249)
    assert len(clip_name(read_prompts(path, 10)[0], 9).encode()) == 255
    with pytest.raises(InputError, match="256 bytes"):
        read_prompts(path, 11)


def test_unreadable_files(prompts, tmp_path):
    """One line, no traceback."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("binary", "missing.txt", "."):
        with pytest.raises(InputError, match="cannot be read"):
            read_prompts(tmp_path / name)


class KilledError(Exception):
    pass


def test_export_resumes(tiny, prompts, tmp_path):
    """Names, contents, manifest; killed after two, it makes the rest and no more."""
    path, out, written = prompts("\n".join(PROMPTS)), tmp_path / "clips", []

    def on_clip(file):
        written.append(file.name)
        if len(written) == 2:
            raise KilledError

    with pytest.raises(KilledError):
        export(tiny, path, out, 3, on_clip, **QUICK)
    assert export(tiny, path, out, 3, on_clip, **QUICK) == (4, 2)
    expected = [f"{prompt}-{index}.mp4" for prompt in PROMPTS for index in range(3)]
    assert written == expected
    assert sorted(p.name for p in out.iterdir()) == sorted([*expected, MANIFEST])
    assert export(tiny, path, out, 3, on_clip, **QUICK) == (0, 6)
    (out / expected[0]).write_bytes(b"")
    assert export(tiny, path, out, 3, **QUICK) == (1, 5), "an empty file is no clip"

    alone = vidjax.generate(tiny, PROMPTS[1], seed=2, progress=False, **QUICK).save(tmp_path / "alone.mp4")
    assert alone.read_bytes() == (out / expected[5]).read_bytes()
    other = read_video(out / expected[4]).frames
    assert np.any(other != read_video(alone).frames), "another seed is another clip"

    manifest = json.loads((out / MANIFEST).read_text())
    wanted = {
        "model": tiny.name, "version": vidjax.__version__, "dtype": "float32", "solver": "unipc", "flow_shift": 3.0,
        "num_inference_steps": 2, "guidance_scales": [3.0], "height": 16, "width": 32, "num_frames": 1, "fps": 8.0,
        "seeds": [0, 1, 2], "prompts": PROMPTS, "names": "{prompt}-{seed}.mp4",
    }  # fmt: skip
    assert wanted.items() <= manifest.items()


def test_prompts_and_clips_may_be_added(tiny, prompts, tmp_path):
    """Another dimension's prompts belong into the same folder; those that are there need not be made again."""
    out = tmp_path / "clips"
    assert export(tiny, prompts("a cat"), out, 1, **QUICK) == (1, 0)
    assert export(tiny, prompts("a dog\na cat"), out, 2, **QUICK) == (3, 1)
    assert json.loads((out / MANIFEST).read_text())["prompts"] == ["a dog", "a cat"]
    with pytest.raises(InputError, match="1 prompts that are not asked for now, such as 'a dog'"):
        export(tiny, prompts("a cat"), out, 2, **QUICK)
    with pytest.raises(InputError, match="1 seeds that are not asked for now, such as 1"):
        export(tiny, prompts("a dog\na cat"), out, 1, **QUICK)


def test_mixtures_are_refused(tiny, prompts, tmp_path):
    """Half of the clips made in one way and half in another would be scored as one model's."""
    path, out = prompts("a cat"), tmp_path / "clips"
    export(tiny, path, out, 1, **QUICK)
    with pytest.raises(InputError, match="made with num_inference_steps=2, not 3: give another folder"):
        export(tiny, path, out, 1, num_frames=1, num_inference_steps=3)
    with pytest.raises(InputError, match=r"made with flow_shift=3.0, not 2.0"):
        export(tiny, path, out, 1, flow_shift=2.0, **QUICK)
    (out / MANIFEST).write_text("[]")
    with pytest.raises(InputError, match="is damaged"):
        export(tiny, path, out, 1, **QUICK)
    (out / MANIFEST).unlink()
    with pytest.raises(InputError, match=r"holds clips such as 'a cat-0.mp4', and no manifest.json"):
        export(tiny, path, out, 1, **QUICK)
    with pytest.raises(InputError, match="cannot be written to"):
        export(tiny, path, path / "clips", 1, **QUICK)
    with pytest.raises(InputError, match="vbench_clips=0"):
        export(tiny, path, out, 0, **QUICK)
