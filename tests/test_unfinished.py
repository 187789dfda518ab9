"""Long clips that are stopped go on with the windows that were finished: the same latents, the same file."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import vidjax
from vidjax import unfinished
from vidjax.clip_file import make_file, part_folder
from vidjax.errors import InputError
from vidjax.request import make_request
from vidjax.windows import Watch

PROMPT = "a small red circle moves right on grass"
WINDOWS = 4
ASKED = {"prompt": PROMPT, "num_frames": 21}


class KilledError(Exception):
    pass


class Disk:
    """Notes each window that is written, and ends the program, as a kill does, behind window ``last``."""

    def __init__(self, write):
        self.write, self.windows, self.last = write, {}, None

    def __call__(self, kept, window, latents):
        assert window not in self.windows, "no window is made twice"
        self.write(kept, window, latents)
        self.windows[window] = latents
        if window == self.last:
            raise KilledError


@pytest.fixture
def disk(monkeypatch):
    disk = Disk(unfinished.write)
    monkeypatch.setattr(unfinished, "write", disk)
    return disk


def test_killed_three_times(tiny, tmp_path, disk):
    """The latents of a job that was killed, and so its file, are those of one that was not, bit for bit."""
    request = make_request(tiny, **ASKED)
    make_file(tiny, request, tmp_path / "whole.mp4", Watch())
    assert os.listdir(tmp_path) == ["whole.mp4"], "nothing else is left"
    whole, disk.windows = disk.windows, {}
    assert sorted(whole) == list(range(WINDOWS))

    out = tmp_path / "out.mp4"
    for disk.last in (0, 1, 2):
        with pytest.raises(KilledError):
            make_file(tiny, request, out, Watch())
        assert not out.exists(), "half a clip must not pass for a whole one"
        names = [f"window-{i:05d}.npy" for i in range(disk.last + 1)]
        assert sorted(os.listdir(part_folder(out))) == [".lock", "request.json", *names]
    disk.last = None
    make_file(tiny, request, out, Watch())
    for i, latents in whole.items():
        np.testing.assert_array_equal(disk.windows[i], latents)
    assert out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["out.mp4", "whole.mp4"]


def test_stream_goes_on(tiny, tmp_path, disk):
    """A program that takes frames can be stopped too; its folder is gone with the last frame."""
    frames = np.concatenate(list(vidjax.stream(tiny, **ASKED)))
    folder = tmp_path / "part"
    chunks = vidjax.stream(tiny, **ASKED, workdir=folder)
    next(chunks)
    chunks.close()
    assert sorted(disk.windows) == [0]
    chunks = vidjax.stream(tiny, **ASKED, workdir=folder)
    np.testing.assert_array_equal(np.concatenate(list(chunks)), frames)
    assert not folder.exists()


OTHERS = [
    ({"seed": 1}, r"seeds=\[0\], not \[1\]"),
    ({"prompt": {0: PROMPT, 2.0: ""}}, "prompts="),
    ({"num_frames": 25}, "num_frames=21, not 25"),
    ({"image": np.zeros((16, 32, 3), np.uint8)}, "other pictures"),
    ({"flow_shift": 2.0}, "sigmas="),
    ({"num_frames": 9}, "num_frames=21, not 9"),
]


def test_another_request_is_told_and_nothing_is_lost(tiny, tmp_path, disk):
    """Windows of two clips in one file, or an hour's work thrown away for a mistyped name: neither must happen."""
    out, disk.last = tmp_path / "out.mp4", 1
    with pytest.raises(KilledError):
        make_file(tiny, make_request(tiny, **ASKED), out, Watch())
    there = {path.name: path.read_bytes() for path in part_folder(out).iterdir()}
    tuned = {**tiny.params, "transformer": jax.tree.map(lambda x: x + 1e-3, tiny.params["transformer"])}
    others = [(tiny, asked, said) for asked, said in OTHERS]
    others.append((dataclasses.replace(tiny, params=tuned), {}, "other weights"))
    for model, asked, said in others:
        with pytest.raises(InputError, match=f"unfinished clip of another request .{said}") as error:
            make_file(model, make_request(model, **{**ASKED, **asked}), out, Watch())
        assert "\n" not in str(error.value)
        assert {path.name: path.read_bytes() for path in part_folder(out).iterdir()} == there
    assert sorted(disk.windows) == [0, 1]
    assert os.listdir(tmp_path) == ["out.mp4.part"]


def test_damaged_window_is_made_again(tiny, tmp_path, disk):
    """A power cut can leave a file of zeros: it costs one window, not the clip."""
    request, folder = make_request(tiny, **ASKED), tmp_path / "out.mp4.part"
    disk.last = 1
    with pytest.raises(KilledError):
        make_file(tiny, request, tmp_path / "out.mp4", Watch())
    second = disk.windows.pop(1)
    (folder / "window-00001.npy").write_bytes(b"\0" * 100)
    with pytest.raises(KilledError):
        make_file(tiny, request, tmp_path / "out.mp4", Watch())
    np.testing.assert_array_equal(disk.windows[1], second)


def test_folder_of_something_else_is_left_alone(tiny, tmp_path):
    """Removed at the end, it would take what is in it along."""
    (tmp_path / "out.mp4.part").mkdir()
    (tmp_path / "out.mp4.part" / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match=r"out.mp4.part is in the way"):
        make_file(tiny, make_request(tiny, **ASKED), tmp_path / "out.mp4", Watch())
    (tmp_path / "out.mp4.part" / "request.json").write_text("{")
    with pytest.raises(InputError, match=r"request.json cannot be read"):
        make_file(tiny, make_request(tiny, **ASKED), tmp_path / "out.mp4", Watch())
    assert (tmp_path / "out.mp4.part" / "thesis.txt").exists()


def test_stopped_before_the_first_window(tiny, tmp_path, monkeypatch):
    """With nothing finished nothing is kept: another request may have the name."""

    def stopped(*args, **kwargs):
        raise KilledError

    monkeypatch.setattr("vidjax.windows.sample_latents", stopped)
    with pytest.raises(KilledError):
        make_file(tiny, make_request(tiny, **ASKED), tmp_path / "out.mp4", Watch())
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_killed_for_real(tiny_folder, tmp_path):
    """SIGKILL runs no handler: only what is on disk by then counts."""
    line = [sys.executable, "-m", "vidjax.cli", "generate", PROMPT, "--model", tiny_folder, "--no-progress"]
    line += ["--num-frames", "101", "--num-inference-steps", "20"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    folder = tmp_path / "out.mp4.part"
    seen = 0
    for _ in range(3):
        process = subprocess.Popen(line, cwd=tmp_path, env=environment)
        while process.poll() is None and len(list(folder.glob("window-*.npy"))) < seen + 3:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen = len(list(folder.glob("window-*.npy")))
        assert not (tmp_path / "out.mp4").exists()
    subprocess.run(line, cwd=tmp_path, env=environment, check=True)
    subprocess.run([*line, "--out", "whole.mp4"], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["compiled", "out.mp4", "whole.mp4"]


def test_two_at_once(tiny, tmp_path):
    """The one that ends first would take the other's windows away; once it has stopped, the same goes on."""
    asked = {"num_frames": 21, "workdir": tmp_path / "part"}
    first = vidjax.stream(tiny, PROMPT, **asked)
    next(first)
    with pytest.raises(InputError, match="part: another process is making this clip"):
        next(vidjax.stream(tiny, PROMPT, **asked))
    first.close()
    assert sum(len(frames) for frames in vidjax.stream(tiny, PROMPT, **asked)) == 21
    assert not (tmp_path / "part").exists()
