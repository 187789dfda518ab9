"""A folder of clips made a dataset: captions, what is left out, what is held out, and doing it again."""

import json
import threading

import numpy as np
import pytest
from PIL import Image

from vidjax.data import prepare as making
from vidjax.data.buckets import Bucket
from vidjax.data.folder import find_items, prepare_folder, read_manifest
from vidjax.data.prepare import Settings
from vidjax.data.records import pack, unpack
from vidjax.data.source import FolderData
from vidjax.errors import InputError
from vidjax.video import Video

BUCKETS = (Bucket(5, 16, 16), Bucket(9, 16, 16))
SETTINGS = Settings(BUCKETS)


def clip(place, name, num_frames=5, caption=None, level=0):
    """A clip whose brightness tells which it is."""
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    Video(np.full((num_frames, 16, 16, 3), level, np.uint8), 8).save(place / name)
    if caption is not None:
        (place / name).with_suffix(".txt").write_text(caption)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Six clips with captions, one of them long; nobody changes them."""
    place = tmp_path_factory.mktemp("clips")
    for i in range(6):
        clip(place, f"sub/{i}.mp4" if i % 2 else f"{i}.mp4", 25 if i == 4 else 5, f"  clip\nnumber {i} ", 40 * i)
    return place


def prepare(folder, out, settings=SETTINGS, **options):
    return prepare_folder(folder, out, settings, progress=False, **options)


def examples(out, split):
    source = FolderData(str(out)).open(split)
    return [source[i] for i in range(len(source))]


def contents(out):
    return {p.name: p.read_bytes() for p in out.iterdir() if p.suffix != ".lock"}


def refused(said, *arguments, **options):
    with pytest.raises(InputError, match=said) as error:
        prepare(*arguments, **options)
    assert "\n" not in str(error.value)


def test_a_folder_becomes_a_dataset(clips, tmp_path):
    """Every clip with its own words, in the shape of its bucket, once, in one of the splits."""
    report = prepare(clips, tmp_path / "out")
    assert report.clips == {BUCKETS[0]: 6, BUCKETS[1]: 2}
    assert (report.used, report.broken) == (6, 0)
    data = FolderData(str(tmp_path / "out"))
    assert data.buckets() == BUCKETS
    train, test = examples(tmp_path / "out", "train"), examples(tmp_path / "out", "test")
    assert len(train) + len(test) == 8
    assert len({e["file"] for e in test}) == 1, "one file of six is held out, one at least"
    assert not {e["file"] for e in train} & {e["file"] for e in test}, "pieces of one clip are in one split"
    for example in train + test:
        number = int(example["file"].removeprefix("sub/")[0])
        assert example["captions"] == [f"clip number {number}"]
        assert example["video"].shape in {b.shape for b in BUCKETS}
        assert example["video"].dtype == np.uint8
        np.testing.assert_allclose(example["video"], 40 * number, atol=3)
    starts = sorted(e["start"] for e in train + test if e["file"] == "4.mp4")
    assert starts == [0, 9 / 8, 18 / 8]
    source = data.open("train")
    assert source.about(0) == {k: v for k, v in source[0].items() if k != "video"}
    for index in (len(source), -1):
        with pytest.raises(IndexError):
            source[index]


def test_the_same_dataset_every_time(clips, tmp_path, monkeypatch):
    """With more workers, or on another day, a training would see other clips under the same name."""
    monkeypatch.setattr(making, "PART", 2)
    settings = Settings(BUCKETS, crop="random")
    prepare(clips, tmp_path / "one", settings, workers=1)
    prepare(clips, tmp_path / "four", settings, workers=4)
    assert contents(tmp_path / "one") == contents(tmp_path / "four")
    assert len(list((tmp_path / "one").glob("*.frames.array_record"))) >= 3
    names = {FolderData(str(tmp_path / "one")).name()}
    for i, other in enumerate(
        (Settings(BUCKETS[:1]), Settings(BUCKETS, quality=90), Settings(BUCKETS, test_share=0.5))
    ):
        prepare(clips, tmp_path / str(i), other)
        names.add(FolderData(str(tmp_path / str(i))).name())
    assert len(names) == 4, "latents are kept under this name"


def test_the_held_out_share(clips, tmp_path):
    """Clips that move from one split to the other when something is added would have been trained on."""
    prepare(clips, tmp_path / "half", Settings(BUCKETS[:1], test_share=0.5))
    assert len({e["file"] for e in examples(tmp_path / "half", "test")}) == 3
    prepare(clips, tmp_path / "share", Settings(BUCKETS[:1], test_share=0.3))
    held = [{e["file"] for e in examples(tmp_path / place, "test")} for place in ("half", "share")]
    assert held[1] < held[0]


def test_one_clip_is_both_splits(tmp_path):
    """Learning one clip by heart is a common first try, and must not fail for want of another."""
    clip(tmp_path / "in", "a.mp4", caption="alone")
    prepare(tmp_path / "in", tmp_path / "out")
    assert [len(examples(tmp_path / "out", split)) for split in ("train", "test")] == [1, 1]


def test_several_captions_of_a_clip(tmp_path):
    """Each use draws one; a manifest that lost all but one would teach fewer words."""
    clip(tmp_path / "in", "a.mp4")
    clip(tmp_path / "in", "b.mp4")
    rows = [("a.mp4", "a, with comma"), ("b.mp4", 'the "second"'), ("a.mp4", "another")]
    lines = "".join(json.dumps({"file": f, "caption": c, "score": 1}) + "\n\n" for f, c in rows)
    (tmp_path / "in" / "manifest.jsonl").write_text(lines)
    quoted = "".join('{},"{}"\n'.format(f, c.replace('"', '""')) for f, c in rows)
    (tmp_path / "list.csv").write_text("﻿file,caption\n" + quoted)
    expected = {"a.mp4": ["a, with comma", "another"], "b.mp4": ['the "second"']}
    for out, manifest in (("json", None), ("csv", tmp_path / "list.csv")):
        prepare(tmp_path / "in", tmp_path / out, manifest=manifest)
        found = examples(tmp_path / out, "train") + examples(tmp_path / out, "test")
        assert {e["file"]: e["captions"] for e in found} == expected
    data = FolderData(str(tmp_path / "csv"))
    drawn = {data.caption({"captions": ["x", "y"]}, np.random.default_rng(i)) for i in range(20)}
    assert drawn == {"x", "y"}
    assert set(data.captions(10)) < {"a, with comma", "another", 'the "second"'}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("m.jsonl", '{"file": "a.mp4", "caption": "x"}\n{"file": "b.mp4"\n', "line 2: not JSON"),
        ("m.jsonl", "\n[1]\n", "line 2: .* is expected"),
        ("m.jsonl", '{"file": "a.mp4", "caption": 3}', "line 1: 'caption' must be a text"),
        ("m.jsonl", '{"file": "a.mp4", "caption": " "}', "line 1: 'caption' must be a text that is not empty"),
        ("m.jsonl", "", "names no files"),
        ("m.csv", "file,text\na.mp4,x\n", "line 1: no column caption"),
        ("m.csv", "file,caption\na.mp4,x\nb.mp4\n", "line 3: 'caption' must be"),
        ("m.csv", "file,caption\na.mp4,one, two\n", "line 2: more values than columns"),
        ("m.csv", 'file,caption\na.mp4,"x\n', "line 2: "),
        ("m.txt", "a.mp4 x", r"a manifest is a \.jsonl or \.csv file"),
        ("m.jsonl", b"\xff\xfe{", "not UTF-8"),
    ],
)
def test_a_broken_line_is_named(tmp_path, name, text, said):
    """Of a manifest of a million lines, the one to mend."""
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=said) as error:
        read_manifest(tmp_path / name)
    assert name in str(error.value)


def test_what_cannot_be_used_is_counted_listed_and_left_out(tmp_path):
    """Silently left out, half of a dataset could be missing; not left out, one file would end days of work."""
    place = tmp_path / "in"
    clip(place, "good.mp4", 9, "good")
    clip(place, "other.mp4", 5, "other")
    whole = (place / "good.mp4").read_bytes()
    bad = {"cut.mp4": whole[:-200], "empty.mp4": b"", "list.mp4": b"#EXTM3U\ngood.mp4\n", "text.png": b"no"}
    for name, data in bad.items():
        (place / name).write_bytes(data)
        (place / name).with_suffix(".txt").write_text("bad")
    clip(place, "untold.mp4")
    clip(place, "short.mp4", 3, "short")
    clip(place, "blank.mp4", 5, " \n")
    (place / "notes.doc").write_text("not looked at")
    expected = {
        "cut.mp4": "cut short", "empty.mp4": "empty", "list.mp4": "not a clip", "text.png": "not a picture",
        "untold.mp4": "no caption", "short.mp4": "3 frames", "blank.mp4": "empty",
    }  # fmt: skip
    report = prepare(place, tmp_path / "out", max_broken=0.8)
    assert (report.used, report.broken) == (2, 7)
    assert "7 files left out, see broken.jsonl" in str(report)
    lines = [json.loads(line) for line in (tmp_path / "out" / "broken.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == sorted(expected)
    for line in lines:
        assert expected[line["file"]] in line["error"]

    refused(r"7 of 9 files .* max_broken=0.7 allows 6; .*broken.jsonl, first blank.mp4: ", place, tmp_path / "strict",
            max_broken=0.7)  # fmt: skip
    assert (tmp_path / "strict" / "broken.jsonl").read_text() == (tmp_path / "out" / "broken.jsonl").read_text()
    with pytest.raises(InputError, match="not finished"):
        FolderData(str(tmp_path / "strict")).open("train")
    # Allowed after all, the work that was done counts.
    assert prepare(place, tmp_path / "strict", max_broken=0.8) == report
    assert contents(tmp_path / "strict") == contents(tmp_path / "out")


def test_pictures_in_between(tmp_path):
    """Pictures are clips of one frame, in batches of their own."""
    clip(tmp_path / "in", "a.mp4", 5, "a clip")
    for name in ("b.png", "c.JPG"):
        Image.new("RGB", (40, 20), (0, 0, 200)).save(tmp_path / "in" / name)
        (tmp_path / "in" / name).with_suffix(".txt").write_text("a picture")
    report = prepare(tmp_path / "in", tmp_path / "out")
    assert report.clips == {Bucket(1, 16, 16): 2, BUCKETS[0]: 1}
    found = examples(tmp_path / "out", "train") + examples(tmp_path / "out", "test")
    assert sorted((len(e["video"]), e["captions"][0]) for e in found) == [(1, "a picture")] * 2 + [(5, "a clip")]


def test_cut_off_and_run_again(clips, tmp_path, monkeypatch):
    """Never half a dataset; and what was made is not made again."""
    monkeypatch.setattr(making, "PART", 2)
    prepare(clips, tmp_path / "whole")
    loaded, out = [], tmp_path / "out"

    def items(stop_at):
        def watched(item):
            def load(*arguments):
                loaded.append(item.name)
                if item.name == stop_at:
                    raise KeyboardInterrupt
                return item.load(*arguments)

            return making.Item(item.name, item.stamp, load)

        return [watched(item) for item in find_items(clips)]

    names = [item.name for item in find_items(clips)]
    with pytest.raises(KeyboardInterrupt):
        making.prepare(items(names[3]), out, SETTINGS, workers=1, progress=False, source=str(clips))
    with pytest.raises(InputError, match="not finished: run the same"):
        FolderData(str(out)).open("train")
    assert not list(out.glob("*00001.*")), "files of the part that was cut off"
    loaded.clear()
    making.prepare(items(None), out, SETTINGS, progress=False, source=str(clips))
    assert sorted(loaded) == names[2:]
    assert contents(out) == contents(tmp_path / "whole")
    loaded.clear()
    making.prepare(items(None), out, SETTINGS, progress=False, source=str(clips))
    assert loaded == []
    assert threading.active_count() < 20, "workers end"


def test_a_changed_folder_is_made_again(tmp_path):
    """Clips that were replaced or taken away would stay in the dataset."""
    for i in range(3):
        clip(tmp_path / "in", f"{i}.mp4", 9 if i == 2 else 5, f"clip {i}")
    out = tmp_path / "out"
    prepare(tmp_path / "in", out)
    before = FolderData(str(out)).name()
    (tmp_path / "in" / "2.mp4").unlink()
    (tmp_path / "in" / "0.txt").write_text("told otherwise")
    report = prepare(tmp_path / "in", out)
    assert report.clips == {BUCKETS[0]: 2}
    found = examples(out, "train") + examples(out, "test")
    assert sorted(e["captions"][0] for e in found) == ["clip 1", "told otherwise"]
    assert FolderData(str(out)).name() != before
    assert not list(out.glob("9x16x16-*"))


def test_a_dataset_is_not_replaced_by_another(clips, tmp_path):
    """A line with one flag changed would take away what took a night to make."""
    out = tmp_path / "out"
    prepare(clips, out)
    before = contents(out)
    refused("was made with fps 8.0, not 12.0: give the name of a new folder", clips, out, Settings(BUCKETS, fps=12.0))
    refused("with buckets 5x16x16 9x16x16, not 5x16x16", clips, out, Settings(BUCKETS[:1]))
    clip(tmp_path / "in", "0.mp4", caption="another of this name")
    refused(f"was made of {clips}, not {tmp_path / 'in'}", tmp_path / "in", out)
    assert contents(out) == before
    assert prepare(clips, out, Settings(BUCKETS, test_share=0.4)).test_clips > 1


def test_lossless_and_jpeg():
    """The autoencoder would learn to make JPEG's blocks; asked for, it must still be the same picture."""
    y, x = np.mgrid[:32, :48]
    frames = np.stack([np.stack([4 * x, 6 * y, x + y + i], -1) for i in range(5)]).astype(np.uint8)
    np.testing.assert_array_equal(unpack(pack(frames, None), frames.shape, None), frames)
    small = pack(frames, 90)
    back = unpack(small, frames.shape, 90)
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).max() < 16
    assert len(pack(frames, 20)) < len(small)


def test_bad_input_is_one_line(clips, tmp_path):
    """Found at once, not after a night of decoding."""
    out = tmp_path / "out"
    refused("does not exist: give a folder", tmp_path / "none", out)
    refused("is not a folder", clips / "0.mp4", out)
    (tmp_path / "nothing").mkdir()
    refused("holds no clips or pictures", tmp_path / "nothing", out)
    clip(tmp_path / "untold", "a.mp4")
    refused(r"holds no captions: put a \.txt", tmp_path / "untold", out)
    refused("cannot be read: No such file", clips, out, manifest=tmp_path / "none.csv")
    (tmp_path / "wrong.csv").write_text("file,caption\nnone.mp4,x\n../a.mp4,y\n/etc/hosts,z\n")
    refused(
        r"3 of 3 files cannot be used; .*first \.\./a\.mp4: It lies outside",
        clips,
        out,
        manifest=tmp_path / "wrong.csv",
    )
    refused("is a file", clips, clips / "0.mp4")
    refused("holds other files", clips, clips)
    refused("max_broken=2", clips, tmp_path / "new", max_broken=2)
    refused("workers=0", clips, tmp_path / "new", workers=0)
    assert not (tmp_path / "new").exists()
    for settings, said in (
        ({"buckets": ()}, "at least one bucket"),
        ({"buckets": (Bucket(16, 64, 64),)}, "num_frames=16: .* nearest: 17"),
        ({"buckets": (Bucket(17, 60, 64),)}, "height=60: .* nearest: 64"),
        ({"fps": 0}, "fps=0"),
        ({"max_pieces": 0}, "max_pieces=0"),
        ({"quality": 101}, "quality=101"),
        ({"test_share": 0.0}, "test_share=0"),
    ):
        with pytest.raises(InputError, match=said):
            Settings(**settings)


def test_no_such_dataset(clips, tmp_path):
    """What a training says whose folder is not, or not yet, a dataset."""
    with pytest.raises(InputError, match="is no dataset: make one with `vidjax data CLIPS"):
        FolderData(str(clips)).open("train")
    prepare(clips, tmp_path / "out")
    with pytest.raises(InputError, match="no split 'validation'"):
        FolderData(str(tmp_path / "out")).open("validation")
    (tmp_path / "out" / "dataset.json").write_text('{"shards": [')
    with pytest.raises(InputError, match="damaged"):
        FolderData(str(tmp_path / "out")).name()
