"""Films of several shots: each goes on as was asked, and a film that was stopped is the one that was not."""

import dataclasses
import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import vidjax
from vidjax import unfinished
from vidjax.clip_file import part_folder
from vidjax.errors import InputError
from vidjax.generation import end_frames
from vidjax.storyboard import Shot, make_film, plan_film, read_storyboard
from vidjax.video import read_video
from vidjax.windows import Watch

CIRCLE = "a small red circle moves right on grass"
STAR = "a large blue star spins in the snow"
FILM = [
    Shot({"prompt": CIRCLE, "seed": 7}),
    Shot({"prompt": STAR, "seed": 8, "num_frames": 5}, "picture"),
    Shot({"prompt": STAR, "seed": 9, "num_frames": 8}, "motion"),
    Shot({"prompt": CIRCLE, "seed": 10, "num_frames": 5}),
]
WINDOWS = 5


def written(tmp_path, text):
    path = tmp_path / "film.toml"
    path.write_text(text)
    return path


class KilledError(Exception):
    pass


class Disk:
    """Notes the folder of each window that is written, and ends the program, as a kill does, behind ``last`` more."""

    def __init__(self, write):
        self.write, self.folders, self.last = write, [], None

    def __call__(self, kept, window, latents):
        self.write(kept, window, latents)
        self.folders.append(kept.folder.name)
        if len(self.folders) == self.last:
            raise KilledError


@pytest.fixture
def disk(monkeypatch):
    disk = Disk(unfinished.write)
    monkeypatch.setattr(unfinished, "write", disk)
    return disk


@pytest.fixture
def shown(monkeypatch):
    """Exact frames of films that are made: what goes to the writer of the mp4."""
    from vidjax.video import VideoWriter

    chunks, write = [], VideoWriter.write

    def noted(writer, frames):
        chunks.append(frames)
        write(writer, frames)

    monkeypatch.setattr(VideoWriter, "write", noted)
    return chunks


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The film, made in one go."""
    out = tmp_path_factory.mktemp("whole") / "film.mp4"
    make_film(tiny, FILM, out)
    return out.read_bytes()


def test_shots_are_read(tmp_path):
    """What stands above the shots holds for all, what a shot says goes before it, and flags come last."""
    path = written(
        tmp_path,
        f"""
        height = 64
        fps = 8
        seed = 7
        style = "watercolor style"
        [[shot]]
        prompt = "{CIRCLE}"
        image = "a.png"
        [[shot]]
        prompt = "{STAR}"
        seed = 3
        solver = "heun"
        hold = "motion"
        [[shot]]
        prompt = "{CIRCLE}"
        style = ""
        hold = "picture"
        keyframes = {{8 = "b.png", 12 = "/c.png"}}
        """,
    )
    common = {"height": 64, "fps": 8, "width": 32}
    assert read_storyboard(path, {"fps": 4, "width": 32, "seed": 1}) == [
        Shot({**common, "prompt": f"{CIRCLE}, watercolor style", "seed": 7, "image": str(tmp_path / "a.png")}),
        Shot({**common, "prompt": f"{STAR}, watercolor style", "seed": 3, "solver": "heun"}, "motion"),
        Shot(
            {**common, "prompt": CIRCLE, "seed": 9, "keyframes": {"8": str(tmp_path / "b.png"), "12": "/c.png"}},
            "picture",
        ),
    ]
    assert [shot.asked["seed"] for shot in read_storyboard(path, {"seed": 1})] == [7, 3, 9]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "film.toml asks for no shot"),
        ("height = 16", "asks for no shot"),
        ("shot = 3", "shots begin with two brackets"),
        ("[shot]\nprompt = 'a'", "shots begin with two brackets"),
        ("[[shot]]\nprompt =\nseed = 1", "film.toml is not TOML: .*line 2"),
        ("hight = 16\n[[shot]]\nprompt = 'a'", "film.toml: no setting 'hight'; these are known: .*height"),
        ("prompt = 'b'\n[[shot]]\nprompt = 'a'", "no setting 'prompt'"),
        ("seed = 'x'\n[[shot]]\nprompt = 'a'", "film.toml: seed='x': must be a whole number"),
        ("[[shot]]\nprompt = 'a'\n[[shot]]\nseed = 1", "film.toml, shot 2: prompt=None: one text is needed"),
        ("[[shot]]\nprompt = ['a', 'b']", "shot 1: prompt=.*one text is needed"),
        ("style = 3\n[[shot]]\nprompt = 'a'", "shot 1: style=3: one text is needed"),
        ("[[shot]]\nprompt = 'a'\nlatents = 1", "shot 1: no setting 'latents'"),
        ("[[shot]]\nprompt = 'a'\nhold = 'motion'", "shot 1: hold='motion': nothing is before the first shot"),
        ("[[shot]]\nprompt = 'a'\n[[shot]]\nprompt = 'a'\nhold = 'cut'", "shot 2: hold='cut': choose one of none, pic"),
        ("[[shot]]\nprompt = 'a'\n[[shot]]\nprompt = 'a'\nhold = ['none']", "shot 2: hold=.* choose one of none"),
        (
            "[[shot]]\nprompt = 'a'\n[[shot]]\nprompt = 'a'\nhold = 'picture'\nimage = 'a.png'",
            "shot 2: hold='picture' and image: give one of them",
        ),
        (
            "[[shot]]\nprompt = 'a'\n[[shot]]\nprompt = 'a'\nhold = 'motion'\nmask = 'a.png'",
            "shot 2: hold='motion' and mask: give one of them",
        ),
        (
            "causal = true\n[[shot]]\nprompt = 'a'\n[[shot]]\nprompt = 'a'\nhold = 'motion'",
            "shot 2: hold='motion' and causal: give one of them",
        ),
    ],
)
def test_broken_storyboard_is_refused(tmp_path, text, said):
    """With the number of the shot, and before a model is loaded."""
    with pytest.raises(InputError, match=said) as error:
        read_storyboard(written(tmp_path, text))
    assert "\n" not in str(error.value)


def test_storyboard_that_cannot_be_read_is_refused(tmp_path):
    """A name that is wrong, or a file that is no text."""
    with pytest.raises(InputError, match="cannot be read"):
        read_storyboard(tmp_path / "missing.toml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        read_storyboard(tmp_path / "binary")


@pytest.mark.parametrize(
    ("asked", "hold", "said"),
    [
        ({"width": 33}, "none", "shot 2: width=33: must be a multiple of 16"),
        ({"width": 16}, "motion", "shot 2: 16x16 at 8 frames a second, and the film is 32x16 at 8 frames a second"),
        ({"fps": 4}, "none", "shot 2: 32x16 at 4 frames a second, and the film is"),
        ({"image": "missing.png"}, "none", "shot 2: image: There is no file 'missing.png'"),
        ({"num_frames": 1}, "picture", "shot 2: num_frames=1 is the picture that is held; nearest: 5"),
        ({"num_frames": 6}, "picture", "shot 2: num_frames=6: must be 1 [+] a multiple of 4"),
        ({"num_frames": 0}, "motion", "shot 2: num_frames=0: must lie between 1"),
        ({"last_image": "a.png"}, "picture", "shot 2: last_image: .* takes image; "),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_before_anything_is_made(tiny, tmp_path, compilations, asked, hold, said):
    """The last shot's mistake, found when all others are made, costs the night."""
    storyboard = [Shot({"prompt": CIRCLE}), Shot({"prompt": STAR, **asked}, hold)]
    with pytest.raises(InputError, match=said) as error:
        make_film(tiny, storyboard, tmp_path / "film.mp4")
    assert "\n" not in str(error.value)
    assert not compilations
    assert os.listdir(tmp_path) == []


def test_models_that_cannot_hold(tiny, compilations):
    """The words are those of the file, not of what is made of them."""
    config = dataclasses.replace(tiny.config, expand_timesteps=False)
    words = dataclasses.replace(tiny, config=config)
    for hold, said in (("picture", "takes no picture"), ("motion", "cannot go on")):
        with pytest.raises(InputError, match=f"shot 2: hold='{hold}': .*{said}; the bundled model"):
            plan_film(words, [Shot({"prompt": CIRCLE}), Shot({"prompt": STAR}, hold)])
    with pytest.raises(InputError, match="at least one shot"):
        plan_film(tiny, [])
    with pytest.raises(InputError, match="shot 1: hold='motion': nothing is before"):
        plan_film(tiny, [Shot({"prompt": CIRCLE}, "motion")])
    assert not compilations


def test_out_is_checked_first(tiny, tmp_path, compilations):
    """A name without a folder, or a folder of something else where the shots would be, and removed with them."""
    with pytest.raises(InputError, match="its folder does not exist"):
        make_film(tiny, FILM, tmp_path / "nowhere" / "film.mp4")
    (tmp_path / "film.mp4.part").mkdir()
    (tmp_path / "film.mp4.part" / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match=r"film.mp4.part is in the way"):
        make_film(tiny, FILM, tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4.part" / "thesis.txt").exists()
    assert not compilations


def generated(model, shot, **given):
    return vidjax.generate(model, progress=False, **shot.asked, **given).frames


def test_shots_go_on_as_asked(tiny, tmp_path, shown):
    """Each shot is what ``generate`` gives for what is held over, without the frames that were seen before."""
    film = make_film(tiny, FILM, tmp_path / "film.mp4")
    assert [planned.new for planned in film.shots] == [9, 4, 8, 5]
    assert (film.num_frames, film.height, film.width, film.fps) == (26, 16, 32, 8.0)
    frames = np.concatenate(shown)
    assert len(frames) == 26 == read_video(tmp_path / "film.mp4").num_frames
    np.testing.assert_array_equal(frames[:9], generated(tiny, FILM[0]), err_msg="the first shot is a clip")
    picture = generated(tiny, FILM[1], image=frames[8])
    np.testing.assert_array_equal(frames[9:13], picture[1:], err_msg="the held frame is not shown twice")
    longer = generated(tiny, FILM[2], video=frames[:13], extend="after")
    np.testing.assert_array_equal(frames[13:21], longer[13:])
    np.testing.assert_array_equal(frames[21:], generated(tiny, FILM[3]), err_msg="a cut holds nothing")
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_motion_does_not_reach_behind_a_cut(tiny, tmp_path, shown):
    """The frames before a cut are of another scene; and of a long film the last few alone count."""
    cut = [FILM[0], FILM[3], FILM[2]]
    make_film(tiny, cut, tmp_path / "cut.mp4")
    frames = np.concatenate(shown)
    longer = generated(tiny, FILM[2], video=frames[9:14], extend="after")
    np.testing.assert_array_equal(frames[14:], longer[5:])
    shown.clear()
    assert end_frames(tiny.config) == 17
    long = [Shot({"prompt": CIRCLE, "num_frames": 21}), FILM[2]]
    assert plan_film(tiny, long).shots[1].held == 17
    make_film(tiny, long, tmp_path / "long.mp4")
    frames = np.concatenate(shown)
    longer = generated(tiny, FILM[2], video=frames[:21], extend="after")
    np.testing.assert_array_equal(frames[21:], longer[21:])


def test_stopped_anywhere(tiny, tmp_path, disk, whole):
    """Killed behind each window, the film is that of a run that was not, to the byte, and nothing is made twice."""
    out = tmp_path / "film.mp4"
    for disk.last in range(1, WINDOWS + 1):
        with pytest.raises(KilledError):
            make_film(tiny, FILM, out)
        assert os.listdir(tmp_path) == ["film.mp4.part"], "half a film must not pass for a whole one"
    assert len(disk.folders) == WINDOWS
    make_film(tiny, FILM, out)
    assert len(disk.folders) == WINDOWS
    assert out.read_bytes() == whole
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_changed_shot_is_made_again(tiny, tmp_path, disk, whole):
    """It, and those that hold on to it; the others are used, also where they are the ones behind a new one."""
    out = tmp_path / "film.mp4"
    changed = [FILM[0], FILM[1]._replace(asked={**FILM[1].asked, "prompt": CIRCLE}), *FILM[2:]]
    disk.last = WINDOWS
    with pytest.raises(KilledError):
        make_film(tiny, changed, out)
    part = tmp_path / "kept"
    shutil.copytree(part_folder(out), part)
    disk.last, before = None, list(disk.folders)
    make_film(tiny, FILM, out)
    again = disk.folders[WINDOWS:]
    assert len(again) == 3, "one window of the changed shot, two of the one that goes on from it"
    assert not set(again) & set(before)
    assert out.read_bytes() == whole

    shutil.copytree(part, part_folder(out))
    disk.folders.clear()
    make_film(tiny, [changed[0], FILM[3], *changed[1:3]], out)
    assert len(disk.folders) == 3, "a shot that was moved is there; those behind it see another picture"


def test_other_weights_make_other_shots(tiny, tmp_path, disk):
    """Half of a film by one model and half by another would pass for one film."""
    disk.last = 1
    with pytest.raises(KilledError):
        make_film(tiny, FILM[:1], tmp_path / "film.mp4")
    disk.last = None
    tuned = {**tiny.params, "transformer": jax.tree.map(lambda x: x + 1e-3, tiny.params["transformer"])}
    make_film(dataclasses.replace(tiny, params=tuned), FILM[:1], tmp_path / "film.mp4")
    assert len(set(disk.folders)) == 2


def test_stopped_before_the_first_window(tiny, tmp_path, monkeypatch):
    """With nothing finished nothing is kept."""

    def stopped(*args, **kwargs):
        raise KilledError

    monkeypatch.setattr("vidjax.windows.sample_latents", stopped)
    with pytest.raises(KilledError):
        make_film(tiny, FILM, tmp_path / "film.mp4")
    assert os.listdir(tmp_path) == []


def test_picture_beside_the_storyboard(tiny, tmp_path, monkeypatch, shown):
    """A folder of a storyboard and its pictures can be moved, and used from anywhere."""
    (tmp_path / "board").mkdir()
    Image.fromarray(np.full((16, 32, 3), 200, np.uint8)).save(tmp_path / "board" / "a.png")
    path = written(tmp_path / "board", f"[[shot]]\nprompt = '{CIRCLE}'\nimage = 'a.png'\nnum_frames = 5")
    monkeypatch.chdir(tmp_path)
    make_film(tiny, read_storyboard(os.path.relpath(path)), "film.mp4", Watch())
    expected = generated(tiny, Shot({"prompt": CIRCLE, "num_frames": 5}), image=path.parent / "a.png")
    np.testing.assert_array_equal(np.concatenate(shown), expected)


@pytest.mark.parametrize("name", ["film.gif", "film.png"])
def test_other_files(tiny, tmp_path, name):
    """A gif or a sheet of frames is how a film is looked at."""
    make_film(tiny, FILM[:2], tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    if name == "film.gif":
        assert read_video(tmp_path / name).num_frames == 13
