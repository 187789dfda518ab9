"""The command line: a clip, or one line that says what is wrong, exit code 2, and nothing left behind."""

import json
import os
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest
from PIL import Image

from vidjax import cli, unfinished
from vidjax.model import bundled, read_config
from vidjax.video import read_video

PROMPT = "a small red circle moves right on grass"


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Runs ``vidjax ARGUMENTS`` in an empty folder: exit code, standard output, lines of standard error."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    for command in (cli.train, cli.benchmark):
        monkeypatch.setattr(command, "keep_host_memory", lambda: False)  # the process of the tests goes on
    threshold = jax.config.jax_persistent_cache_min_compile_time_secs

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["vidjax", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capfd.readouterr()
        return code, out, err.splitlines()

    yield call
    jax.config.update("jax_persistent_cache_min_compile_time_secs", threshold)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.png"])
def test_generate_writes_a_clip(run, tiny_folder, name):
    """The one thing everybody runs; each suffix is another way to write."""
    code, out, err = run("generate", PROMPT, "--model", tiny_folder, "--out", name, "--no-progress")
    assert (code, err) == (0, [])
    first, stages = out.splitlines()
    assert first == f"{name}: 9 frames of 32x16, 1.1 s"
    assert [stage.split()[0] for stage in stages.split(", ")] == ["loading", "text", "sampling", "decoding", "writing"]
    assert os.listdir() == [name]
    assert os.path.getsize(name) > 100


def test_generate_from_a_picture(run, tiny_folder, tmp_path):
    """The flags must reach ``vidjax.generate`` under their names, not be swallowed."""
    Image.fromarray(np.full((30, 40, 3), 200, np.uint8)).save(tmp_path / "picture.png")
    code, out, _ = run(
        "generate", "", "--model", tiny_folder, "--image", tmp_path / "picture.png", "--num-inference-steps", 2,
        "--guidance-scale", 1, "--guidance", "apg", "--guidance-interval", 0, 0.9, "--fps", 4, "--seed", 3,
        "--out", "out.png", "--no-progress",
    )  # fmt: skip
    assert code == 0
    assert out.startswith("out.png: 9 frames of 32x16, 2.2 s")


def test_megabyte_prompt_is_cut_and_said_so(run, tiny_folder):
    """The clip of the beginning, and one line about the rest."""
    code, _, err = run("generate", "red\n" * 250_000, "--model", tiny_folder, "--out", "out.png", "--no-progress")
    assert code == 0
    assert len(err) == 1
    assert err[0].startswith("vidjax: prompt 'red\\nred")
    assert "are left out" in err[0]


def _bad_pictures(folder):
    (folder / "empty.png").touch()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:3000])
    Image.new("RGB", (50_000, 4)).save(folder / "wide.png")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--width", "50"], "width=50: must be a multiple of 16; nearest: 48"),
        (["--height", "-16"], "height=-16: must lie between 16 and 8192; nearest: 16"),
        (["--num-frames", "8"], "num_frames=8: must be 1 + a multiple of 4; nearest: 9"),
        (["--num-frames", "9", "--duration", "1"], "give one of them"),
        (["--num-inference-steps", "0"], "nearest: 1"),
        (["--num-inference-steps", "1000000"], "nearest: 1000"),
        (["--guidance-scale", "nan"], "guidance_scale=nan: must be a finite number"),
        (["--guidance-scale=-inf"], "guidance_scale=-inf: must be a finite number"),
        (["--seed", "-1"], "seed=-1: must lie between 0 and"),
        (["--solver", "dpm"], "choose one of unipc, euler, heun"),
        (["--dtype", "int8"], "dtype='int8': choose float32 or bfloat16"),
        (["--guidance", "none"], "choose one of cfg, cfg-zero, apg"),
        (["--guidance-interval", "0.9", "0.1"], "the lower time comes first"),
        (["--guidance-interval", "0.5"], "--guidance-interval"),
        (["--grid", "linear"], "choose one of folder, original"),
        (["--guidance-scale-2", "3"], "this model has one denoiser"),
        (["--then", "0", "b"], "--then 0: seconds above 0 are needed"),
        (["--then", "3", "b"], "prompt from 3 s on: the clip is made in one piece"),
        (["--last-image", "../empty.png"], "give the first frame too"),
        (["--loras", "style.safetensors=much"], "FILE or FILE=STRENGTH is expected"),
        (["--loras", "missing.safetensors"], "missing.safetensors"),
        (["--loras", "a.safetensors", "a.safetensors=0.5"], "a.safetensors is given twice"),
        (["--image", "missing.png"], "no file 'missing.png'"),
        (["--image", "../empty.png"], "is empty (0 bytes)"),
        (["--image", "../cut.png"], "damaged or cut short"),
        (["--image", "../wide.png"], "50000x4"),
        (["--out", "nowhere/out.mp4"], "its folder does not exist"),
        (["--out", "out.avi"], "does not end in one of .mp4, .gif, .png"),
        (["--out", "out"], "does not end in one of"),
        (["--out", "../empty.png/out.mp4"], "its folder is not a folder"),
        (["--model", "nowhere"], "no model folder 'nowhere'"),
        (["--model", "../empty.png"], "no model folder"),
        (["--height", "tall"], "--height tall: a whole number is expected"),
        (["--seed", "nan"], "--seed nan: a whole number is expected"),
        (["--keyframes", "0"], "--keyframes '0': its values have another form"),
        (["--video", "../empty.png"], "video: '../empty.png' is empty"),
        (["--model", ""], "model='': give a folder or a hub id"),
        (["--heigth", "16"], "Unrecognized options: --heigth"),
        (["second"], "Unrecognized options: second"),
        (["--seed"], "Missing value for argument '--seed'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_generate_refuses_in_one_line(run, tiny_folder, tmp_path, compilations, arguments, said):
    """A traceback tells the user nothing, and a file cut in half is worse than none."""
    _bad_pictures(tmp_path)
    defaults = [] if "--model" in arguments else ["--model", tiny_folder]
    code, out, err = run("generate", PROMPT, *defaults, *arguments)
    assert (code, out) == (2, "")
    assert len(err) == 1
    assert err[0].startswith("vidjax: error: ")
    assert said in err[0]
    assert not compilations
    assert os.listdir() == []


def test_folder_that_may_not_be_written_is_refused(run, tmp_path):
    """Found after the sampling, it would cost the whole clip. Permissions alone would let a superuser in."""
    code, out, err = run("generate", PROMPT, "--out", "/proc/out.mp4", "--model", "nowhere")
    assert (code, out, len(err)) == (2, "", 1)
    assert "'/proc/out.mp4': the folder '/proc' may not be written to" in err[0]
    (tmp_path / "requests.jsonl").write_text('{"prompt": "a"}')
    (tmp_path / "here" / "file").touch()
    code, _, err = run("generate", "--batch", "../requests.jsonl", "--out-dir", "file", "--model", "nowhere")
    assert (code, err) == (2, ["vidjax: error: file cannot be written to: File exists"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Expected one of {generate, data, train, export, adapt, evaluate, benchmark, plan}"),
        (["generate"], "give PROMPT, or --storyboard FILE, or --batch FILE"),
        (["generate", PROMPT, "--storyboard", "film.toml"], "PROMPT or --then, and --storyboard"),
        (["generate", "--storyboard", "film.toml"], "film.toml cannot be read"),
        (["generate", "--storyboard", "film.toml", "--batch", "r.jsonl"], "--storyboard and --batch: give one"),
        (["generate", "--storyboard", "film.toml", "--out-dir", "clips"], "--out-dir goes with --batch"),
        (["generate", PROMPT, "--batch", "requests.jsonl"], "PROMPT and --batch"),
        (["generate", "--batch", "requests.jsonl"], "--out-dir"),
        (["generate", PROMPT, "--out-dir", "clips"], "--out-dir goes with --batch"),
        (["generate", "--batch", "r.jsonl", "--out-dir", "clips", "--out", "a.gif"], "--out is for one clip"),
        (["generate", "--batch", "requests.jsonl", "--out-dir", "clips"], "requests.jsonl cannot be read"),
        (["generate", "--batch", "r.jsonl", "--out-dir", "clips", "--then", "1", "b"], "--then is for one clip"),
        (["make"], "Unrecognized options: make"),
        (["train", "missing.py", "--workdir", "run"], "no configuration file missing.py"),
        (["train", "config.py"], "--workdir"),
        (["export", "nowhere", "out"], "nowhere holds no training run"),
        (["evaluate", "--report", "report.json"], "'report.json' does not end in .html"),
        (["evaluate", "--report", "nowhere/report.html"], "its folder does not exist"),
        (["evaluate", "--report", "/proc/report.html"], "its folder may not be written to"),
        (["evaluate", "--vbench", "clips"], "--vbench needs --vbench-prompts FILE"),
        (["evaluate", "--vbench-prompts", "prompts.txt"], "--vbench-prompts goes with --vbench DIR"),
        (["evaluate", "--vbench", "clips", "--vbench-prompts", "prompts.txt"], "prompts.txt cannot be read"),
        (["evaluate", "--vbench", "c", "--vbench-prompts", "p", "--report", "a.html"], "--report goes without it"),
        (["benchmark"], "{load,stream,train}"),
        (["benchmark", "load", "--size-gb", "0"], "size_gb=0: must be a finite number above 0"),
    ],
    ids=" ".join,
)
def test_other_commands_refuse_in_one_line(run, arguments, said):
    """The same promise for all commands."""
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert len(err) == 1
    assert err[0].startswith("vidjax: error: ")
    assert said in err[0]
    assert os.listdir() == []


def test_wrong_setting_starts_no_run(run, pytestconfig):
    """A misspelled override must not leave a folder that claims to be a run."""
    config = pytestconfig.rootpath / "configs" / "shapes_vae.py"
    code, _, err = run("train", config, "stepz=3", "--workdir", "run")
    assert code == 2
    assert len(err) == 1
    assert "no setting 'stepz'; nearest first: steps" in err[0]
    assert os.listdir() == []


def test_settings_on_both_sides_of_flags():
    """What is written where it comes to mind must arrive, and in its order."""
    line = "train lora.py steps=4 --workdir a=b steps=5 --smoke batch_size=2"
    command = cli.parse(line.split())
    assert command.overrides == ("steps=4", "steps=5", "batch_size=2")
    assert (str(command.config), command.workdir, command.smoke) == ("lora.py", "a=b", True)


def test_help(run):
    """Help is an answer, not an error."""
    code, out, err = run("generate", "--help")
    assert (code, err) == (0, [])
    assert "--num-inference-steps" in out


def test_interrupted_leaves_nothing(run, tiny_folder, monkeypatch):
    """Control-C in the middle is no bug to be traced back."""

    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("vidjax.generation.decode", stopped)
    code, _, err = run("generate", PROMPT, "--model", tiny_folder, "--no-progress")
    assert (code, err) == (130, ["vidjax: interrupted"])
    assert os.listdir() == []


def test_long_clip_stops_and_goes_on(run, tiny_folder, monkeypatch):
    """The same line is all that it takes; another one must neither mix with what is there nor throw it away."""
    line = ["generate", PROMPT, "--then", 1.6, "a large blue star", "--duration", 2.6, "--model", tiny_folder]
    write = unfinished.write

    def stopped(kept, window, latents):
        write(kept, window, latents)
        if window == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(unfinished, "write", stopped)
        code, _, err = run(*line, "--no-progress")
    assert (code, err) == (130, ["vidjax: interrupted"])
    assert os.listdir() == ["out.mp4.part"]
    code, _, err = run(*line, "--no-progress", "--seed", 1)
    assert (code, len(err)) == (2, 1)
    assert "out.mp4.part holds an unfinished clip of another request (seeds=[0], not [1])" in err[0]
    code, out, err = run(*line)
    assert (code, os.listdir()) == (0, ["out.mp4"])
    assert out.startswith("out.mp4: 21 frames of 32x16, 2.6 s")
    assert err[0] == "vidjax: 4 windows of 9 frames, 3 steps each: 21 of 32x16, 2.6 s"
    assert "12/12" in err[-1]
    assert read_video("out.mp4").num_frames == 21


def test_dry_run(run, tiny_folder):
    """Whether it fits and how much there is to do must be known without making anything."""
    code, out, err = run("generate", PROMPT, "--model", tiny_folder, "--num-frames", 21, "--dry-run")
    assert (code, err, os.listdir()) == (0, [], [])
    plan, memory = out.splitlines()
    assert plan == "4 windows of 9 frames, 3 steps each: 21 of 32x16, 2.6 s"
    assert memory.startswith("memory: parameters 0.00 GiB, sampling 0.0")


def test_as_a_process(tiny_folder, tmp_path):
    """What libraries print on their own must not get between the user and the one line."""
    command = [sys.executable, "-m", "vidjax.cli", "generate", PROMPT, "--model", tiny_folder, "--width", "50"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "vidjax: error: width=50: must be a multiple of 16; nearest: 48\n"


def test_reader_that_has_enough():
    """``vidjax generate --help | head -1`` is no accident; the reader has gone before the first word here."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "vidjax.cli", "generate", "--help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_bundled_model_from_the_command_line(run):
    """The README's first command, with fewer steps."""
    code, out, err = run("generate", PROMPT, "--num-inference-steps", 2, "--no-progress")
    assert (code, err) == (0, [])
    assert out.startswith("out.mp4: 17 frames of 64x64, 2.1 s")


def test_batch(run, tiny_folder, tmp_path):
    """A campaign from the command line: flags hold for every line, the second run has nothing left to do."""
    requests = tmp_path / "requests.jsonl"
    requests.write_text(
        '{"template": "a {colour} star", "variables": {"colour": ["red", "blue"]}, "seeds": [3]}\n'
        '{"prompt": "a red circle", "height": 33}\n'
    )
    line = ["generate", "--batch", requests, "--out-dir", "clips", "--model", tiny_folder, "--num-inference-steps", 2]
    code, out, err = run(*line)
    assert code == 1, "a script must learn that not all were made"
    assert out.splitlines()[-1] == "clips: 2 clips made, 0 were there, 1 could not be made; see manifest.jsonl"
    assert len(err) == 1
    assert "height=33: must be a multiple of 16; nearest: 32" in err[0]
    lines = [json.loads(text) for text in (tmp_path / "here" / "clips" / "manifest.jsonl").read_text().splitlines()]
    assert [each.get("num_inference_steps") for each in lines if "file" in each] == [2, 2]
    code, out, _ = run(*line)
    assert (code, out) == (1, "clips: 0 clips made, 2 were there, 1 could not be made; see manifest.jsonl\n")


def test_outline_of_a_batch(run, tiny_folder, tmp_path, compilations):
    """What a campaign would compile and make is known before a night is given to it."""
    (tmp_path / "requests.jsonl").write_bytes(
        b'\xef\xbb\xbf{"template": "a {colour} star", "variables": {"colour": ["red", "blue"]}, "seeds": [3]}\n'
        b'{"prompt": "a red circle", "num_frames": 5}\n{"prompt": "a red circle", "height": 33}\n'
    )
    line = ["generate", "--batch", "../requests.jsonl", "--out-dir", "clips", "--model", tiny_folder, "--dry-run"]
    code, out, err = run(*line, "--num-inference-steps", 2)
    assert (code, len(err), os.listdir()) == (1, 1, [])
    assert "height=33" in err[0]
    assert out.splitlines() == [
        "2 x 1 window of 9 frames, 2 steps each: 9 of 32x16, 1.1 s",
        "1 x 1 window of 5 frames, 2 steps each: 5 of 32x16, 0.6 s",
        "3 clips in 2 shapes, 1 cannot be made",
    ]
    assert not compilations


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "a"}\n{"prompt": "b"', "requests.jsonl, line 2: is not JSON"),
        ('{"template": "a {b}", "variables": {"b": []}}', "line 1: variable 'b' needs a list"),
        ('{"template": "a {b}", "variables": {"b": ["red", null]}}', "line 1: variable 'b' has None: values are texts"),
        ('{"prompt": "a", "prompt": "b"}', "line 1: 'prompt' is given twice"),
        ('{"prompt": "a \\ud800 heart"}', r"line 1: has '\ud800', half a character"),
    ],
)
def test_broken_batch_is_refused(run, tiny_folder, tmp_path, text, said):
    """Half of a file made, with nobody knowing which half, is worse than nothing."""
    (tmp_path / "requests.jsonl").write_text(text)
    code, out, err = run("generate", "--batch", "../requests.jsonl", "--out-dir", "clips", "--model", tiny_folder)
    assert (code, out, len(err)) == (2, "", 1)
    assert said in err[0]
    assert os.listdir() == []


def test_storyboard(run, tiny_folder, tmp_path, compilations):
    """A film from the command line: planned, refused with the shot's number, and made, with a line for each shot."""
    (tmp_path / "film.toml").write_text(
        'num_frames = 5\n[[shot]]\nprompt = "a red star"\n'
        '[[shot]]\nprompt = "a blue star"\nnum_frames = 4\nhold = "motion"\n'
    )
    line = ["generate", "--storyboard", "../film.toml", "--model", tiny_folder, "--num-inference-steps", 2]
    plan = [
        "shot 1 of 2: 1 window of 5 frames, 2 steps each: 5 of 32x16, 0.6 s",
        "shot 2 of 2: 1 window of 9 frames, 2 steps each: 4 of 32x16, 0.5 s, holding the motion",
    ]
    code, out, err = run(*line, "--dry-run")
    assert (code, err, os.listdir()) == (0, [], [])
    assert out.splitlines() == [*plan, "out.mp4: 2 shots, 9 frames of 32x16, 1.1 s"]
    code, _, err = run(*line, "--width", 50)
    assert (code, err) == (2, ["vidjax: error: shot 1: width=50: must be a multiple of 16; nearest: 48"])
    assert not compilations
    code, out, err = run(*line)
    assert (code, os.listdir()) == (0, ["out.mp4"])
    assert out.startswith("out.mp4: 2 shots, 9 frames of 32x16, 1.1 s\nloading ")
    assert [text for text in err if text.startswith("vidjax: ")] == [f"vidjax: {text}" for text in plan]
    assert read_video("out.mp4").num_frames == 9


def test_vbench_clips(run, tiny_folder, tmp_path):
    """The names that VBench looks for, flags that reach the sampler, and a second run with nothing left to do."""
    (tmp_path / "prompts.txt").write_text("a red circle\na cat, 4k\n")
    line = ["evaluate", "--model", tiny_folder, "--vbench", "clips", "--vbench-prompts", "../prompts.txt"]
    line += ["--vbench-clips", 2, "--num-frames", 1, "--num-inference-steps", 2, "--solver", "euler"]
    code, out, _ = run(*line)
    assert (code, out) == (0, "clips: 4 clips made, 0 were there; see manifest.json\n")
    names = [f"{prompt}-{index}.mp4" for prompt in ("a cat, 4k", "a red circle") for index in (0, 1)]
    assert sorted(os.listdir("clips")) == [*names, "manifest.json"]
    manifest = json.loads((tmp_path / "here" / "clips" / "manifest.json").read_text())
    assert (manifest["solver"], manifest["num_inference_steps"]) == ("euler", 2)
    code, out, _ = run(*line)
    assert (code, out) == (0, "clips: 0 clips made, 4 were there; see manifest.json\n")
    code, _, err = run(*line, "--width", "50")
    assert (code, err) == (2, ["vidjax: error: width=50: must be a multiple of 16; nearest: 48"])


@pytest.mark.slow
def test_train_export_generate(run, pytestconfig, tmp_path):
    """The two training commands of the README, shrunk: what comes out must be a model that makes clips."""
    data = [f"task.data.folder={tmp_path / 'data'}", *(f"task.data.{side}=32" for side in ("height", "width"))]
    data.append("task.data.num_frames=9")
    configs = pytestconfig.rootpath / "configs"
    code, _, err = run("train", configs / "shapes_vae.py", *data, "task.crop_frames=9", "--smoke", "--workdir", "vae")
    assert code == 0, err
    sampling = [f"task.sampling.{name}" for name in ("height=32", "width=32", "num_frames=9", "num_inference_steps=3")]
    line = ["train", configs / "shapes_denoiser.py", *data, *sampling, "task.vae=vae/export", "--smoke"]
    code, _, err = run(*line, "--workdir", "denoiser")
    assert code == 0, err
    code, _, err = run("export", "denoiser", "model")
    assert code == 0, err
    code, out, _ = run("generate", PROMPT, "--model", "model", "--out", "out.gif", "--no-progress")
    assert code == 0
    assert out.startswith("out.gif: 9 frames of 32x32, 1.1 s")
    assert run("generate", PROMPT, "--model", "denoiser/export", "--out", "again.gif", "--no-progress")[0] == 0
    assert (tmp_path / "here" / "again.gif").read_bytes() == (tmp_path / "here" / "out.gif").read_bytes()


def test_what_is_read_is_not_written_over(run, tmp_path):
    """A clip that was gone on with under its own name would be lost, and longer each time."""
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"mine")
    for flags in (
        ("--video", str(clip), "--extend", "after"),
        ("--references", str(clip)),
        ("--style-image", str(clip)),
    ):
        code, _, said = run("generate", "a red circle", *flags, "--out", str(clip))
        assert code == 2
        assert "is what is read: give another name" in said[-1]
    assert clip.read_bytes() == b"mine"


def test_pictures_of_a_model_that_takes_none(run, tmp_path):
    """Said in one line, with the models that can; before anything is compiled."""
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture)
    sampling = read_config(bundled()).sampling
    asked = [("--references", str(picture), str(picture))] if not sampling.references else []
    asked += [("--style-image", str(picture))] if not sampling.style_image else []
    for flags in asked:
        code, _, said = run("generate", "it spins", *flags, "--out", "a.mp4")
        assert code == 2
        assert "is not trained to be given" in said[-1]
