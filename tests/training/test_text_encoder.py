"""A new text encoder for a model that is there: what its words meant, and now whose they are."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidjax
from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.data.source import ClipData, FolderData
from vidjax.errors import InputError
from vidjax.models import t5
from vidjax.training import probe, train
from vidjax.training.text_encoder import TextEncoderTask, distance
from vidjax.weights import folder


@pytest.fixture
def task(tiny_folder):
    return TextEncoderTask(str(tiny_folder), data=ClipData(num_clips=400), eval_captions=200)


def config(task, steps=1):
    optimizer = OptimizerConfig(learning_rate=1e-2, warmup_steps=1, weight_decay=0.0)
    return TrainConfig(task, steps, 32, optimizer=optimizer, ema_decay=0.5, eval_every=steps)


def test_exports_a_whole_model_with_it(task, tiny, tiny_folder, tmp_path):
    """What is exported must be what was trained, all else as it was; and what is near is to stay near."""
    state = train(config(task, 40), tmp_path)
    made = vidjax.load(tmp_path / "export")
    for a, b in zip(
        jax.tree.leaves(made.params["text_encoder"]), jax.tree.leaves(state.ema["text_encoder"]), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4)
    assert made.config == tiny.config
    jax.tree.map(np.testing.assert_array_equal, made.params["transformer"], tiny.params["transformer"])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (scores,) = (line for line in lines if line["kind"] == "eval")
    new = task.make(config(task)).init(jax.random.key(0))
    before = task.make(config(task)).evaluate(new, jax.random.key(0))
    assert scores["distance"] < 0.5 * before["distance"]
    assert scores["probe_correct"] > before["probe_correct"] + 0.2
    assert before.keys() == {"probe", "probe_correct", "pairs_correct", "distance"} <= scores.keys()


def test_an_encoder_begins_where_order_can_be_learned():
    """With queries that begin large, attention goes by words alone: ten times the steps leave captions sets of words,
    and what is said of two subjects is told no better than by chance."""
    config = t5.T5Config(vocab_size=12, d_model=64, d_kv=32, d_ff=64, num_layers=2, num_heads=2)
    rng = np.random.default_rng(0)
    words = np.stack([rng.permutation(8)[:2] for _ in range(512)])
    tokens = np.stack([[8, a, 9, b, 10] for a, b in words]).astype(np.int32)
    factors = np.full((512, len(probe.HEADS)), -1, np.int32)
    factors[:, 0], factors[:, 3] = words[:, 0] % 7, words[:, 1] % 7
    captions = probe.Captions(tokens, np.full(512, 5, np.int32), factors)
    params = {"text_encoder": t5.init(config, jax.random.key(0)), "probe": probe.init(64, jax.random.key(1))}

    def encode(params, tokens, lengths):
        return t5.encode(config, params["text_encoder"], tokens, lengths)

    learnt = jax.jit(lambda p: probe.pretrain(encode, p, captions, jax.random.key(2), steps=300))(params)
    tokens, lengths, factors = jax.tree.map(jnp.asarray, tuple(captions))
    assert probe.loss(learnt["probe"], encode(learnt, tokens, lengths), lengths, factors)[1] > 0.95


def test_left_out_captions_tell_nothing(task, tiny_folder):
    """An empty caption that is asked for its subject would pull all heads to the mean."""
    made = dataclasses.replace(task, caption_dropout=1.0).make(config(task))
    row = made.transform(made.source[0], np.random.default_rng(0))
    assert row["length"] == 1
    assert (row["factors"] == -1).all()
    made = dataclasses.replace(task, caption_dropout=0.0, untold_share=1.0).make(config(task))
    alone = next(i for i in range(100) if len(made.source[i]["scene"].subjects) == 1)
    row = made.transform(made.source[alone], np.random.default_rng(0))
    assert (row["factors"][:3] == -1).all(), "a picture shows it"
    assert (row["factors"][3:6] >= 0).all()


def test_distance_is_of_the_tokens_there_are():
    text = jnp.zeros((2, 3, 4)).at[0, :2].set(1.0)
    np.testing.assert_allclose(distance(text, jnp.zeros((2, 3, 4)), jnp.array([2, 3])), 2 / 5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": FolderData("mine")}, "FolderData: it is not known"),
        ({"untold_share": 2.0}, "untold_share"),
        ({"caption_dropout": -1.0}, "caption_dropout"),
        ({"closeness": -1.0}, "closeness"),
        ({"eval_captions": 0}, "eval_captions"),
    ],
)
def test_refused_before_it_starts(task, tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        train(config(dataclasses.replace(task, **changes)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_smoke_is_small(task, tiny_folder):
    small = task.smoke()
    assert (small.data.num_clips, small.eval_captions, small.model) == (32, 8, str(tiny_folder))
    assert folder.read_config(tiny_folder, "text_encoder").d_model == 16, "it stays as it is"
