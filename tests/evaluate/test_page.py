"""The page holds all that it shows, and shows words as words."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from vidjax.errors import InputError
from vidjax.evaluate.adherence import Examined, Looked, Word
from vidjax.evaluate.page import check_page, choose, make_page, write_page
from vidjax.evaluate.report import Report
from vidjax.video import Video, read_video

EVIL = "<script>alert('&')</script> \"red\""


def looked(right: bool, level: int = 0, prompt: str = "a red circle") -> Looked:
    frames = np.full((3, 16, 16, 3), level, np.uint8)
    words = (Word("place", "sea", "sea"), Word("shape", "heart", "heart" if right else "star"))
    return Looked(prompt, level, Video(frames, 8), Video(frames, 8), words)


def examined(*clips: Looked, long: tuple[Looked, ...] = ()) -> Examined:
    report = Report({"place": 0.5}, {"place": 1.0}, {"place": 0.9}, {"place": (0.4, 0.6)}, {"place": 10})
    return Examined(report, list(clips), list(long))


class Tags(HTMLParser):
    """Counts tags, keeps addresses, and fails where one is not closed."""

    def __init__(self):
        super().__init__()
        self.open, self.found, self.addresses = [], [], []

    def handle_starttag(self, tag, attributes):
        self.found.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


def test_page_is_whole():
    """Sent by mail, it must still show everything: no address but the clips' own bytes."""
    page = make_page(examined(looked(True), looked(False, 9), long=(looked(True, 5),)), {"model": "bundled"})
    tags = read(page)
    assert tags.found.count("video") == 6
    assert all(address.startswith("data:video/mp4;base64,") for address in tags.addresses)
    assert "script" not in tags.found
    assert "://" not in page
    assert "default-src 'none'" in page
    assert "50.0%" in page
    assert "40.0% to 60.0%" in page


def test_page_shows_the_clips(tmp_path):
    """The bytes are those of the clip that was judged."""
    page = make_page(examined(looked(False, 120)), {})
    data = re.findall(r'base64,([^"]+)"', page)[0]
    (tmp_path / "clip.mp4").write_bytes(base64.b64decode(data))
    clip = read_video(tmp_path / "clip.mp4")
    assert clip.num_frames == 3
    np.testing.assert_allclose(clip.frames, 120, atol=2)
    assert "✓ place: sea" in page
    assert "✗ shape: star, not heart" in page


def test_words_are_escaped():
    """A prompt or the name of a folder is text, wherever it comes from."""
    page = make_page(examined(looked(False, 1, EVIL)), {EVIL: EVIL})
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 3
    read(page)


def test_failures_stand_beside_successes():
    """Neither the best nor the worst: the first of each, half and half where there are enough."""
    clips = [looked(i % 5 == 0, i) for i in range(40)]
    right, wrong = choose(clips, 6)
    assert [clip.seed for clip in right] == [0, 5, 10]
    assert [clip.seed for clip in wrong] == [1, 2, 3]
    right, wrong = choose(clips, 24)
    assert (len(right), len(wrong)) == (8, 16), "what one side lacks the other has"
    right, wrong = choose([looked(True, i) for i in range(9)], 6)
    assert (len(right), len(wrong)) == (6, 0)
    page = make_page(examined(*clips), {})
    assert "In 8 of 40 every word that is judged is to be seen" in page
    shown = [int(seed) for seed in re.findall(r"made, seed (\d+)", page)]
    assert len(shown) == 24
    assert shown[:4] == [0, 1, 5, 2]


def test_write_page(tmp_path):
    """Whole or not at all, and refused before the clips are made."""
    path = write_page(tmp_path / "report.html", examined(looked(True)), {})
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    (tmp_path / "folder.html").mkdir()
    for name, said in (("a.json", "does not end in .html"), ("no/a.html", "does not exist"), ("folder.html", "folder")):
        with pytest.raises(InputError, match=said):
            check_page(tmp_path / name)
