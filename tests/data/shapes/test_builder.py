import subprocess
import sys

import numpy as np
import pytest

from vidjax.data.shapes import builder, caption, factors, held_out, parse, render, scene_from_json, training_scene
from vidjax.data.shapes.builder import load_shapes
from vidjax.errors import InputError

SIZE = dict(num_clips=12, num_test_clips=5, num_frames=5, height=16, width=24, seed=3)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("shapes")


def test_clips_come_back_as_they_were_rendered(data_dir):
    """A lossy or reordered record would train on other pictures than the caption tells of."""
    source = load_shapes(data_dir, "train", **SIZE)
    assert len(source) == 12
    for index in (0, 11, 4):
        item = source[index]
        scene = scene_from_json(item["scene"])
        assert scene == training_scene(3, index)
        assert factors(parse(item["caption"].decode())) == factors(scene)
        np.testing.assert_array_equal(item["video"], render(scene, 5, 16, 24))


def test_the_test_split_is_held_out(data_dir):
    """A training scene in it would make generalisation look better than it is."""
    source = load_shapes(data_dir, "test", **SIZE)
    assert len(source) == 5
    assert all(held_out(scene_from_json(item["scene"])) for item in source)


def test_the_second_call_only_reads(data_dir):
    """Rendering again at every start would cost minutes on a real set."""
    load_shapes(data_dir, "train", **SIZE)
    before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*.array_record*")}
    load_shapes(data_dir, "train", **SIZE)
    assert before
    assert before == {path: path.stat().st_mtime_ns for path in data_dir.rglob("*.array_record*")}


def test_another_size_is_another_dataset(data_dir):
    """Configs sharing a folder would hand out clips of the wrong size."""
    other = load_shapes(data_dir, "train", **{**SIZE, "height": 24})
    assert other[0]["video"].shape == (5, 24, 24, 3)
    assert load_shapes(data_dir, "train", **SIZE)[0]["video"].shape == (5, 16, 24, 3)


def test_worker_processes_make_the_same_clips(data_dir):
    """Large sets are rendered by spawned workers: their order and content must be those of one process."""
    source = load_shapes(data_dir, "train", **{**SIZE, "num_clips": 300})
    assert len(source) == 300
    for index in (0, 17, 299):
        np.testing.assert_array_equal(source[index]["video"], render(training_scene(3, index), 5, 16, 24))


def test_a_large_set_lies_in_parts(tmp_path, monkeypatch):
    """A split of more than a gigabyte cannot be written in one piece; a clip in the wrong place has another's words."""
    monkeypatch.setattr(builder, "_GIGABYTE", 5 * 3 * 5 * 16 * 24)
    source = load_shapes(tmp_path, "train", **SIZE)
    assert len(source) == 12
    assert {path.name.split("-")[1].split(".")[0] for path in tmp_path.rglob("*.array_record*")} == {
        "train", "train_1", "train_2", "test",
    }  # fmt: skip
    assert [scene_from_json(item["scene"]) for item in source] == [training_scene(3, i) for i in range(12)]
    with pytest.raises(IndexError):
        source[12]


def test_it_works_without_tensorflow(tmp_path):
    """TensorFlow is not a dependency: an import of it would fail on a fresh install."""
    program = (
        "import sys\n"
        "from vidjax.data.shapes.builder import load_shapes\n"
        "size = dict(num_clips=1, num_test_clips=2, num_frames=1, height=8, width=8)\n"
        f"source = load_shapes({str(tmp_path)!r}, 'test', **size)\n"
        "assert source[1]['video'].shape == (1, 8, 8, 3)\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=300)


@pytest.mark.parametrize("wrong", [dict(split="validation"), dict(num_clips=0), dict(height=0)])
def test_wrong_wishes_are_input_errors(data_dir, wrong):
    """Found before anything is rendered."""
    with pytest.raises(InputError):
        load_shapes(data_dir, **{"split": "train", **SIZE, **wrong})


def test_captions_of_the_set_are_fixed():
    """The stored caption is a function of the seed and the number, so a set can be made again elsewhere."""
    scene = training_scene(3, 0)
    assert caption(scene, np.random.default_rng((3, 0, 1))) == caption(scene, np.random.default_rng((3, 0, 1)))


def test_unguarded_script_is_refused(tmp_path):
    """Renderers begin by reading the script that starts them: one without a guard waited for itself for ever."""
    script = tmp_path / "script.py"
    size = "num_clips=256, num_test_clips=1, num_frames=1, height=8, width=8"
    script.write_text(
        f"from vidjax.data.shapes.builder import load_shapes\nload_shapes({str(tmp_path / 'data')!r}, {size})\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert ended.returncode != 0
    assert "InputError: clips are rendered by processes" in ended.stderr.splitlines()[-1]
    script.write_text(script.read_text().replace("\nload", "\nif __name__ == '__main__':\n    load"))
    subprocess.run([sys.executable, script], capture_output=True, timeout=120, check=True)
