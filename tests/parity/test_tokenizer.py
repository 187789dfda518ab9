"""Token ids of hard prompts against the tokenizer of the published pipeline, read from the published folder layout."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

import vidjax
from vidjax import tokenizer

pytestmark = pytest.mark.parity

EXTRA_IDS = 300

SENTENCES = [
    "a small red circle moves right on grass, realistic style",
    "two large blue squares spin at night; the camera pans slowly",
    "a cat & a dog (friends) walk < 100 m / 3.5 s > 20% : #1 \"yes\" 'no' - _ ! ?",
    "0123456789 café naïve schön über straße ABCDEFGHIJ",
    "一只红狐狸走过雪地，镜头缓慢推进。",
    "日本語のテスト、猫が草の上を歩く",
    "한국어 고양이가 걷는다",
    "кошка идёт по траве",
    "مرحبا بالعالم",
    "שלום עולם",
    "नमस्ते दुनिया",
    "🙂🔥",
]

PROMPTS = [
    "",
    " \t\n ",
    "a small red circle moves right on grass",
    "  a  red\tcircle \r\n\n moves\u00a0right ",
    "一只红狐狸走过雪地，镜头缓慢推进。鸞鳳",
    "日本語のテスト、猫が草の上を歩く 囍",
    "한국어 고양이가 걷는다 뷁",
    "שלום עולם, مرحبا بالعالم",
    "\u202eright to left\u202c cat",
    "नमस्ते दुनिया กำลังเดิน",
    "a cat 🙂🔥 and 🫠🫥🫨 here",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈👍🏽 🇯🇵 1️⃣ ™️ ©️ ❤️",
    "salt &amp; pepper &lt;b&gt; caf&eacute; &#128512; &hearts;",
    "salt &amp;amp; pepper &amp;lt;b&amp;gt; &amp;#128512; &amp;amp;amp;",
    "3 < 4 &amp;amp; 5 &amp;gt; 4 &amp;amp;amp; <b>",
    "schÃ¶n cafÃ© â€œquotedâ€\x9d Ð¿Ñ\x80Ð¸Ð²ÐµÑ‚",
    "ＦＵＬＬ ｗｉｄｔｈ １２３　ｶﾞｷﾞ ㍿ ① ½ ﬁne",
    "cafe\u0301 nai\u0308ve Z\u0351\u036b\u0343a\u0363\u0342lgo e&#769;",
    "“curly” ‘quotes’ — dash… «guillemets»",
    "nul\x00 bell\x07 escape\x1b[31mred\x1b[0m delete\x7f",
    "zero\u200bwidth\u200dmarks\ufeff soft\u00adhyphen \ufffd",
    "▁ ▁a ▁▁red a▁b",
    "<0x41> <0xF0>",
    *(
        text.format(mark, mark)
        for mark in ("</s>", "<pad>", "<unk>", "<s>", "<extra_id_0>", "<extra_id_42>", "<extra_id_299>")
        for text in ("{}", "a red {} circle", "{} circle", "circle {}", "red{}circle", "{}{} red", " {}. {}")
    ),
    "&lt;/s&gt; &amp;lt;extra_id_0&amp;gt; ＜/s＞ ﹤pad﹥",
    "<extra_id_300> <extra_id_> </S> < /s> <PAD> <extra_id_0",
    "</s><pad><unk></s> </s>",
    "red🫠</s>🫠red",
    "a small red circle, " * 150,
    " ".join(f"{SENTENCES[i % len(SENTENCES)]} {i}" for i in range(600)),
    "一只红狐狸走过雪地" * 100,
    "</s> " * 600,
]


def write_published(path: Path, marks: dict[str, int]) -> None:
    """A small model with UMT5's settings, in the layout of the published folders."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=out,
        model_type="unigram",
        vocab_size=600,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="nmt_nfkc",
        num_threads=1,
        minloglevel=2,
        **marks,
    )
    (path / "spiece.model").write_bytes(out.getvalue())
    model = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    extra = [f"<extra_id_{i}>" for i in range(EXTRA_IDS)]
    own = {i: model.id_to_piece(i) for i in sorted(marks.values()) if i >= 0}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    if marks["bos_id"] >= 0:
        names["bos_token"] = "<s>"
    special = {**own, **{model.vocab_size() + i: piece for i, piece in enumerate(reversed(extra))}}
    config = {
        "added_tokens_decoder": {str(i): {"content": piece, **flags} for i, piece in special.items()},
        "additional_special_tokens": extra,
        "clean_up_tokenization_spaces": True,
        "extra_ids": EXTRA_IDS,
        "model_max_length": 10**30,
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": False,
        "tokenizer_class": "T5Tokenizer",
        **names,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    (path / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": extra, **names}))


def published_tokens(path: Path, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and lengths of the prompts, from the tokenizer that the published pipeline loads, called as there."""
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean
    from tokenizers.models import Unigram
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(path)
    backend = reference.backend_tokenizer
    model = json.loads(backend.to_str())["model"]
    assert not model["byte_fallback"]
    if model["unk_id"] != reference.unk_token_id:
        # transformers 5 has 2 built in, which is <s> in UMT5; transformers 4 takes the model's own, UMT5's 3.
        backend.model = Unigram([tuple(piece) for piece in model["vocab"]], unk_id=reference.unk_token_id)
    tokens = reference(
        [prompt_clean(prompt) for prompt in PROMPTS],
        padding="max_length",
        max_length=max_length,
        truncation=True,
        add_special_tokens=True,
        return_attention_mask=True,
        return_tensors="np",
    )
    return tokens.input_ids, tokens.attention_mask.sum(1)


def different(path: Path, max_length: int, ids: np.ndarray, lengths: np.ndarray) -> dict[str, tuple]:
    """The prompts whose ids or lengths are others here."""
    found = tokenizer.tokenize(tokenizer.load(path / "spiece.model", max_length), PROMPTS)
    rows = zip(PROMPTS, found.ids, ids, found.lengths, lengths, strict=True)
    return {p: (a[:n], b[:m]) for p, a, b, n, m in rows if n != m or (a != b).any()}


MARKS = {
    "UMT5": {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3},
    "T5": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
}


@pytest.mark.parametrize("max_length", [512, 16])
@pytest.mark.parametrize("kind", MARKS)
def test_published_layout(tmp_path, kind, max_length):
    """A prompt must be the same tokens as in the program the weights were made with, whatever is typed."""
    write_published(tmp_path, MARKS[kind])
    ids, lengths = published_tokens(tmp_path, max_length)
    assert lengths.min() == 1
    assert lengths.max() == max_length
    assert MARKS[kind]["unk_id"] in ids
    assert different(tmp_path, max_length, ids, lengths) == {}


def test_bundled():
    """The bundled model's prompts must read the same in the published programs."""
    path = Path(vidjax.__file__).parent / "assets" / "shapes" / "tokenizer"
    assert different(path, 32, *published_tokens(path, 32)) == {}
