"""What a benchmark reports must hang together, and nothing may stay on the disk it measures."""

import dataclasses
import errno
import json
import os
import statistics
import tempfile

import jax
import pytest

from vidjax import cli
from vidjax.benchmark import loading as benchmark
from vidjax.errors import InputError
from vidjax.models.wan.weights import abstract_params

SIZE_GB = 0.004


@pytest.mark.parametrize("dtype", benchmark.DTYPES)
def test_load(tmp_path, dtype):
    """Rates of another amount of bytes, or of other repetitions, would compare nothing."""
    report = benchmark.load(SIZE_GB, tmp_path, dtype)
    assert report.dtype == dtype
    assert 0.5 < report.size_bytes / (SIZE_GB * 1e9) < 1.5
    assert report.files > 3
    for seconds, rate in (
        (report.sequential_seconds, report.sequential_gb_per_second),
        (report.read_seconds, report.read_gb_per_second),
    ):
        assert len(seconds) == benchmark.REPETITIONS
        assert min(seconds) > 0
        assert rate == pytest.approx(report.size_bytes / 1e9 / statistics.median(seconds))
    assert report.ratio == pytest.approx(report.read_gb_per_second / report.sequential_gb_per_second)
    assert report.extra_memory_bytes is None or report.extra_memory_bytes >= 0
    assert f"{report.ratio:.2f} of that" in str(report)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("size", [3e6, 1e8, 1e9, 2e9, 14e9, 60e9])
def test_denoiser_has_the_size_asked_for(size):
    """Otherwise more would be written than the disk was found to have room for."""
    shapes = jax.tree.leaves(abstract_params("transformer", benchmark._denoiser(int(size))))
    assert sum(shape.size for shape in shapes) == pytest.approx(size, rel=0.05)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["write_tensors", "read_part"])
def test_folder_is_removed_whatever_happens(tmp_path, monkeypatch, name, error):
    """Gigabytes that nobody knows of are the worst a benchmark can leave."""
    present = []

    def fail(*args):
        present.extend(os.listdir(tmp_path))
        raise error

    monkeypatch.setattr(benchmark.weights, name, fail)
    with pytest.raises(error):
        benchmark.load(SIZE_GB, tmp_path)
    assert len(present) == 1
    assert not os.listdir(tmp_path)


def test_disk_that_fills_up_meanwhile(tmp_path, monkeypatch):
    """Others write, too: no reason for a traceback."""

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(benchmark.weights, "write_tensors", fail)
    with pytest.raises(InputError, match=r"could not be written: .*No space left on device"):
        benchmark.load(SIZE_GB, tmp_path)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size_gb": 0.0}, "size_gb=0: must be a finite number above 0"),
        ({"size_gb": -2.0}, "size_gb=-2: must be a finite number above 0"),
        ({"size_gb": float("nan")}, "size_gb=nan: must be a finite number above 0"),
        ({"size_gb": float("inf")}, "size_gb=inf: must be a finite number above 0"),
        ({"size_gb": 1e9}, r"size_gb=1e\+09: .* has only .* GB free"),
        ({"dtype": "int8"}, "dtype='int8': choose bfloat16 or float32"),
        ({"dir": "missing"}, "dir='missing': there is no such folder"),
        ({"dir": "file"}, "dir='file': is not a folder"),
    ],
    ids=str,
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, monkeypatch, wrong, said):
    """A disk that is filled to the brim takes other programs with it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=said):
        benchmark.load(**{"size_gb": SIZE_GB, "dir": tmp_path, **wrong})
    assert os.listdir() == ["file"]


def test_folder_that_may_not_be_written(tmp_path, monkeypatch):
    """Root may write anywhere, so the answer is made up."""

    def read_only(dir):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(InputError, match="the folder may not be written to"):
        benchmark.load(SIZE_GB, tmp_path)


@pytest.mark.parametrize(
    ("path", "who"), [("/proc/meminfo", "the machine"), ("/sys/fs/cgroup/memory.max", "the container")]
)
def test_memory_that_is_not_there(tmp_path, monkeypatch, path, who):
    """A process that the system kills for its memory cannot remove its folder."""
    monkeypatch.setattr(benchmark, "_stated", lambda p, *rest: 10**8 if p == path else None)
    with pytest.raises(InputError, match=f"GB of memory are needed, {who} has only 0.1 GB"):
        benchmark.load(SIZE_GB, tmp_path)
    assert not os.listdir(tmp_path)


def test_page_cache_that_stays_is_said(tmp_path, monkeypatch):
    """The rate of memory must not pass for that of a disk."""
    monkeypatch.setattr(benchmark, "_cached_share", lambda path: 1.0)
    report = benchmark.load(SIZE_GB, tmp_path)
    assert not report.cache_dropped
    assert "these are not the disk's rates" in str(report)
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    assert not benchmark.load(SIZE_GB, tmp_path).cache_dropped


def test_from_the_command_line(tmp_path, capsys):
    """Programs read the report as JSON, people as lines."""
    line = ["benchmark", "load", "--size-gb", str(SIZE_GB), "--dir", str(tmp_path)]
    cli.run(cli.parse(line))
    assert "of bfloat16 in" in capsys.readouterr().out
    cli.run(cli.parse([*line, "--dtype", "float32", "--json"]))
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {field.name for field in dataclasses.fields(benchmark.LoadReport)}
    assert found["dtype"] == "float32"
