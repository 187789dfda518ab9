"""Many clips from one file: none twice, none lost, each as if made alone."""

import hashlib
import json

import numpy as np
import pytest

import vidjax
from vidjax import campaign
from vidjax.campaign import MANIFEST, name_jobs, plan, read_jobs, run
from vidjax.errors import InputError
from vidjax.parallel.mesh import make_mesh

PROMPTS = ["a red circle", "a blue star spins", "a green heart at sea"]


def written(tmp_path, *lines):
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def manifest(folder):
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def test_template_makes_every_combination(tmp_path):
    """A combination that is missing or doubled is noticed only when somebody looks for its clip."""
    line = {
        "template": "a {colour} {thing}, {colour} light",
        "variables": {"colour": ["red", "blue"], "thing": ["star", "heart", 7]},
        "sizes": [[16, 32], [32, 16]],
        "seeds": [0, 5],
        "fps": 4,
    }
    jobs = read_jobs(written(tmp_path, line, "", {"prompt": "alone"}), {"fps": 12, "solver": "heun"})
    assert len(jobs) == 2 * 3 * 2 * 2 + 1 == len({job.id for job in jobs})
    asked = [job.asked for job in jobs]
    wanted = {"prompt": "a blue 7, blue light", "height": 32, "width": 16, "seed": 5, "fps": 4, "solver": "heun"}
    assert wanted in asked
    assert asked[-1] == {"prompt": "alone", "fps": 12, "solver": "heun"}


def test_ids_stay(tmp_path):
    """Resuming finds clips by id: lines that were added or moved must not give another clip an old one's name."""
    first = {job.asked["prompt"]: job.id for job in read_jobs(written(tmp_path, *({"prompt": p} for p in PROMPTS)))}
    lines = [{"prompt": p} for p in ["new", *reversed(PROMPTS), PROMPTS[0]]]
    jobs = read_jobs(written(tmp_path, *lines))
    again = {job.asked["prompt"]: job.id for job in jobs[:-1]}
    assert {name: again[name] for name in first} == first
    assert jobs[-1].id == f"{first[PROMPTS[0]]}-2", "asked for twice is another clip"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a"', "line 2: is not JSON"),
        ("[1, 2]", "line 2: .* a request is an object"),
        ({"promt": "a"}, "line 2: no setting 'promt'; these are known: .*guidance"),
        ({"prompt": "a", "latents": [0]}, "no setting 'latents'"),
        ({"seed": 1}, "prompt=None: one text is needed"),
        ({"prompt": ["a", "b"]}, "one text is needed"),
        ({"template": "a {b}", "variables": {"b": []}}, "variable 'b' needs a list of at least one value"),
        ({"template": "a {b}", "variables": {"b": "red"}}, "variable 'b' needs a list of at least one value"),
        ({"template": "a {b}"}, "variable 'b' needs a list of at least one value"),
        ({"template": "a {b}", "variables": {"b": [1], "c": [2]}}, "variable 'c' does not stand in the template"),
        ({"template": "a {b", "variables": {"b": [1]}}, "template='a {b'"),
        ({"template": "a {}", "variables": {}}, "only names stand in braces"),
        ({"template": "a {b.real}", "variables": {"b": [1]}}, "only names stand in braces"),
        ({"template": 3}, "template=3"),
        ({"template": "a", "sizes": []}, "at least one value"),
        ({"template": "a", "sizes": [[64]]}, "pairs"),
        ({"template": "a", "seeds": 3}, "at least one value"),
    ],
)
def test_broken_line_is_refused(tmp_path, line, said):
    """With its number, before a model is loaded: a campaign takes days."""
    with pytest.raises(InputError, match=said) as error:
        read_jobs(written(tmp_path, {"prompt": "fine"}, line))
    assert "\n" not in str(error.value)


def test_file_without_requests_is_refused(tmp_path):
    """Nothing made and no word said looks like success."""
    with pytest.raises(InputError, match="asks for no clip"):
        read_jobs(written(tmp_path, "", "  "))
    with pytest.raises(InputError, match="cannot be read"):
        read_jobs(tmp_path / "missing.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        read_jobs(tmp_path / "binary")


def test_plan_keeps_programs_together(tiny, compilations):
    """Words, seeds and speed are inputs of a program; size, steps and guidance are other programs."""
    asked = [{"prompt": "a", "width": width, "seed": i, "fps": 4 + i} for i, width in enumerate([16, 32, 16, 32, 16])]
    asked += [{"prompt": "a", "guidance": "apg"}, {"prompt": "a", "width": 33}]
    batches, errors = plan(tiny, name_jobs(asked), 2)
    assert [[settings["seed"] for settings in batch.settings] for batch in batches] == [[0, 2], [4], [1, 3], [0]]
    assert len(errors) == 1
    assert "nearest: 32" in next(iter(errors.values()))
    assert not compilations


class KilledError(Exception):
    pass


def test_killed_and_resumed(tiny, tmp_path, compilations):
    """The whole promise: each shape compiles once, nothing is made twice or lost, a bad request stops nobody."""
    asked = [{"prompt": PROMPTS[i % 3], "width": 16 * (3 + i % 3), "seed": i, "num_frames": 1}
             for i in range(12)]  # fmt: skip
    asked.insert(4, {"prompt": "bad", "height": 33})
    jobs, lines, compiled = name_jobs(asked), [], []

    def on_clip(line, stop):
        lines.append(line)
        compiled.append(len(compilations))
        if len(lines) == stop:
            raise KilledError

    with pytest.raises(KilledError):
        run(tiny, jobs, tmp_path, on_clip=lambda line: on_clip(line, 7))
    with open(tmp_path / MANIFEST, "a") as file:
        file.write('{"id": "cut sho')
    outcome = run(tiny, jobs, tmp_path, on_clip=lambda line: on_clip(line, 0))
    assert outcome == (6, 6, 1)
    assert lines.pop(7) == lines[0], "the bad request is named again"
    compiled.pop(7)
    waited = [lines[i]["width"] for i in range(1, 13) if compiled[i] > compiled[i - 1]]
    assert sorted(waited) == [48, 64, 80], "only the first clip of each shape waits for the compiler"
    assert manifest(tmp_path) == lines
    assert len({line["id"] for line in lines}) == len(lines) == 13
    assert sorted(p.name for p in tmp_path.glob("*.mp4")) == sorted(line["file"] for line in lines if "file" in line)
    for line in lines:
        if "file" in line:
            assert hashlib.sha256((tmp_path / line["file"]).read_bytes()).hexdigest() == line["sha256"]
    (bad,) = (line for line in lines if "error" in line)
    assert bad["prompt"] == "bad"
    assert "nearest: 32" in bad["error"]


def alone(model, line):
    """The clip that a line of a manifest describes, as anybody would make it from the line."""
    return vidjax.generate(model, progress=False, **{name: line[name] for name in line.keys() & campaign.SETTINGS})


def test_each_clip_is_reproducible_alone(tiny, tmp_path):
    """A manifest that does not give its clips again is decoration: every setting counts, to the last byte."""
    picture = tmp_path / "picture.png"
    vidjax.Video(np.random.default_rng(0).integers(0, 256, (1, 16, 32, 3), np.uint8), 8).save(picture)
    asked = [
        {"prompt": PROMPTS[0], "seed": 3},
        {"prompt": PROMPTS[1], "image": str(picture), "negative_prompt": "blue", "fps": 4},
        {"prompt": PROMPTS[2], "num_frames": 5, "guidance": "cfg-zero", "guidance_interval": [0.1, 0.9],
         "guidance_scale": 2, "num_inference_steps": 4, "flow_shift": 2.0, "solver": "euler", "grid": "original"},
    ]  # fmt: skip
    assert run(tiny, name_jobs(asked), tmp_path / "clips").made == 3
    for line in manifest(tmp_path / "clips"):
        again = alone(tiny, line).save(tmp_path / "again.mp4")
        assert hashlib.sha256(again.read_bytes()).hexdigest() == line["sha256"]
        assert line["batch_size"] == 1


def test_batches_over_a_mesh(tiny_folder, tmp_path):
    """Neighbours and the copies that fill the last batch must not show: five different clips in batches of four."""
    model = vidjax.load(tiny_folder, mesh=make_mesh(data=4, fsdp=2))
    jobs = name_jobs({"prompt": PROMPTS[i % 3], "seed": i, "fps": 4 + i} for i in range(5))
    requests = [campaign.make_request(model, **job.asked) for job in jobs]
    videos = campaign.generate_each(model, requests, 8)
    single = vidjax.load(tiny_folder)
    for video, job in zip(videos, jobs, strict=True):
        expected = vidjax.generate(single, progress=False, **job.asked)
        assert video.fps == expected.fps
        assert np.abs(video.frames.astype(int) - expected.frames).max() <= 1
    run(model, jobs, tmp_path)
    assert [line["batch_size"] for line in manifest(tmp_path)] == [8] * 5


def test_failure_while_sampling_is_recorded(tiny, tmp_path, monkeypatch):
    """A clip too large for the memory must not take those behind it along; the next run tries it again."""
    import jax

    make = campaign.generate_each

    def tight(model, requests, batch):
        if requests[0].num_frames > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nand a page of details")
        return make(model, requests, batch)

    jobs = name_jobs([{"prompt": "a"}, {"prompt": "a", "num_frames": 1}])
    monkeypatch.setattr(campaign, "generate_each", tight)
    assert run(tiny, jobs, tmp_path) == (1, 0, 1)
    assert manifest(tmp_path)[0]["error"] == "RESOURCE_EXHAUSTED: out of memory"
    assert run(tiny, jobs, tmp_path) == (0, 1, 1)
    assert len(manifest(tmp_path)) == 2, "the same error is not written again"
    monkeypatch.undo()
    assert run(tiny, jobs, tmp_path) == (1, 1, 0)


def test_files_that_are_not_the_manifests(tiny, tmp_path):
    """An empty one, as a sudden end leaves, is made again; one that somebody changed is theirs, and is named."""
    jobs = name_jobs([{"prompt": "a", "num_frames": 1, "seed": i} for i in range(3)])
    assert run(tiny, jobs, tmp_path) == (3, 0, 0)
    files, told = [tmp_path / line["file"] for line in manifest(tmp_path)], []
    files[0].write_bytes(b"")
    files[1].write_bytes(b"cut by hand")
    for made in (1, 0):
        told.clear()
        assert run(tiny, jobs, tmp_path, on_clip=told.append) == (made, 2 - made, 1)
        assert [line["error"] for line in told if "error" in line] == [
            f"{files[1]} is not the clip of manifest.jsonl; move it away to make it again"
        ]
    assert files[1].read_bytes() == b"cut by hand"
    assert hashlib.sha256(files[0].read_bytes()).hexdigest() == manifest(tmp_path)[0]["sha256"]
    files[1].unlink()
    assert run(tiny, jobs, tmp_path) == (1, 2, 0)


def test_another_models_folder_is_refused(tiny, tmp_path):
    """Half of the clips by one model and half by another would pass for one campaign."""
    line = {"id": "x", "file": "x.mp4", "model": tiny.name, "revision": None, "dtype": "bfloat16"}
    (tmp_path / MANIFEST).write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match="dtype='bfloat16', not 'float32': give another folder"):
        run(tiny, name_jobs([{"prompt": "a"}]), tmp_path)
    (tmp_path / MANIFEST).write_text("nonsense\n")
    with pytest.raises(InputError, match=r"manifest.jsonl is damaged"):
        run(tiny, name_jobs([{"prompt": "a"}]), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written to"):
        run(tiny, name_jobs([{"prompt": "a"}]), tmp_path / "file")
    with pytest.raises(InputError, match="batch_size=0"):
        run(tiny, name_jobs([{"prompt": "a"}]), tmp_path, batch_size=0)
