"""Examples beside pictures: the right ones, as often as asked for, and a model that learns from them and says so."""

import collections
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidjax
from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.data.buckets import parts_of
from vidjax.data.latents import Latents
from vidjax.data.pipeline import make_loader
from vidjax.data.shapes import COLOURS, SHAPES, parse, scene_to_json, training_scene
from vidjax.data.source import ClipData, FolderData
from vidjax.errors import InputError
from vidjax.request import make_request
from vidjax.training import denoiser, probe, references, train
from vidjax.training.denoiser import DenoiserTask
from vidjax.training.finetune import FinetuneTask
from vidjax.training.lora import LoRAConfig
from vidjax.training.references import num_tokens, see, taught, tell, untold_captions, with_pictures

COUNT = 40


class Tables:
    """Pictures whose latents are their numbers."""

    def __init__(self, source):
        self.source = source
        self.latents = np.broadcast_to(
            np.arange(len(source), dtype=np.float16)[:, None, None, None, None], (len(source), 1, 1, 2, 4)
        )


@pytest.fixture(scope="module")
def pictures():
    from vidjax.data.shapes.portraits import Portraits
    from vidjax.data.shapes.stills import Stills
    from vidjax.training.references import Pictures

    return {(1, 2): Pictures(Tables(Portraits(16, 32, 8)), Tables(Stills(16, 32)))}


class Clips:
    """Examples of training scenes; clip i is of number i."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        return {"latents": np.full((3, 1, 2, 4), index, np.float16), "scene": scene_to_json(training_scene(0, index))}


@pytest.fixture
def task(tiny_folder, tmp_path):
    data = ClipData(str(tmp_path / "data"), num_clips=16, num_test_clips=4, num_frames=9, height=16, width=32)
    return FinetuneTask(
        str(tiny_folder),
        lora=None,
        data=data,
        eval_clips=4,
        caption_dropout=0.0,
        reference_share=0.5,
        portraits=4,
        style_share=0.25,
    )


def test_shares_and_buckets():
    """A batch of examples with as many pictures each; twice as often one as two or three; of one subject only."""
    data = ClipData()
    source = with_pictures(Clips(COUNT), data, 0.4, 0.2)
    whole = sum(weight for _, weight, _ in parts_of(source))
    shares = {part[0].get("beside"): weight / whole for part, weight, _ in parts_of(source)}
    expected = {None: 0.4, (1, False): 0.2, (2, False): 0.1, (3, False): 0.1, (0, True): 0.1, (1, True): 0.1}
    assert shares == pytest.approx(expected)
    for part, *_ in parts_of(source)[1:]:
        scenes = [data.scene(part[i]) for i in range(len(part))]
        count, _ = part[0]["beside"]
        assert all(len(scene.subjects) == 1 for scene in scenes) == bool(count)
        assert len(part) > COUNT / 2
    alone = with_pictures(Clips(COUNT), data, 0.0, 0.5)
    assert [part[0].get("beside") for part, *_ in parts_of(alone)] == [None, (0, True)]


def test_pictures_are_of_the_subject_and_of_the_style(pictures):
    """Pictures of others would teach a model not to look at them."""
    data, seen = ClipData(), collections.Counter()
    source = with_pictures(Clips(COUNT), data, 0.4, 0.2)
    for i in range(len(source)):
        example, rng = source[i], np.random.default_rng(i)
        found = see(data, pictures, example, rng)
        scene, (count, style) = data.scene(example), example.get("beside", (0, False))
        text = tell(data, example, rng, found.show)
        assert found.latents.keys() == {name for name, there in (("references", count), ("style", style)) if there}
        if count:
            subject = scene.subjects[0]
            which = found.latents["references"][:, 0, 0, 0]
            assert found.latents["references"].shape == (count, 1, 2, 4)
            assert found.latents["references"].dtype == np.float32
            assert len({*which}) == count, "each picture once"
            assert {*which} <= {*pictures[1, 2].portraits.source.of(subject)}
            told = bool({*text.replace(",", "").split()} & {*COLOURS, *SHAPES})
            assert told == ("subject" not in found.show)
            seen["told", told] += 1
        if style:
            assert found.latents["style"].shape == (1, 1, 2, 4)
            assert found.latents["style"][0, 0, 0, 0] in pictures[1, 2].stills.source.like(scene)
            assert scene.style == "plain" or parse(text).style == "plain"
        if not (count or style):
            assert text == data.caption(example, np.random.default_rng(i)), "as without pictures"
    share = seen["told", True] / (seen["told", True] + seen["told", False])
    assert 0.1 < share < 0.3


def test_pictures_are_as_large_as_their_clip(tiny, monkeypatch, tmp_path):
    """Beside a clip of another shape they have no places."""

    def encoded(config, params, source, folder, name):
        latents = np.full((len(source), 1, source.height // 16, source.width // 16, 4), source.width, np.float16)
        return Latents(latents, source)

    monkeypatch.setattr(references, "open_latents", encoded)
    data = ClipData(height=32, width=64, num_long_clips=1, num_oblong_clips=2)
    gallery = references.open_pictures(tiny.config.vae, {}, data, tmp_path, 4)
    assert gallery.keys() == {(2, 4), (2, 6), (3, 4)}
    without = references.open_pictures(tiny.config.vae, {}, data, tmp_path, 0)
    assert all(pictures.portraits is None for pictures in without.values()), "nobody looks at them: not computed"
    scene = next(scene for scene in data.scenes(9) if len(scene.subjects) == 1)
    example = {"latents": np.zeros((5, 2, 6, 4)), "scene": scene_to_json(scene), "beside": (2, True)}
    found = see(data, gallery, example, np.random.default_rng(0)).latents
    assert found["references"].shape == (2, 2, 6, 4)
    assert (found["references"] == 96).all()
    assert found["style"].shape == (1, 2, 6, 4)


def test_batches_have_pictures_of_one_number(pictures):
    """Rows of several numbers cannot be stacked; and what is drawn must not depend on who reads."""
    data = ClipData()

    def row(example, rng):
        return {"latents": example["latents"], **see(data, pictures, example, rng).latents}

    source = with_pictures(Clips(COUNT), data, 0.5, 0.25)
    batches = make_loader(source, row, 4, seed=0)
    found = [next(batches) for _ in range(64)]
    counts = collections.Counter(
        (batch.get("references", np.empty((4, 0))).shape[1], "style" in batch) for batch in found
    )
    assert counts == {(0, False): 16, (1, False): 16, (2, False): 8, (3, False): 8, (0, True): 8, (1, True): 8}
    assert num_tokens(found[0], (1, 1, 1)) == sum(4 * batch.shape[1] * 2 for batch in found[0].values())


def test_loss_uses_the_pictures(task, tiny):
    """Left out of the loss, pictures would be learnt by nobody; and a gradient must flow through what looks at them."""
    model = tiny.config
    rng = np.random.default_rng(0)
    batch = {"latents": rng.normal(size=(2, 3, 1, 2, 4)), "text": rng.normal(size=(2, 5, 16))}
    batch = {name: jnp.asarray(value, jnp.float32) for name, value in batch.items()}
    seen = jnp.asarray(rng.normal(size=(2, 3, 1, 2, 4)), jnp.float32)

    def encode(params, rows):
        return rows["text"]

    @jax.jit
    def loss(params, batch):
        def velocity(*asked):
            return task.velocity(model, encode, functools.partial(task.denoise, model), *asked)

        return task.loss(model, velocity, params, batch, jax.random.key(0))[0]

    params = {"transformer": tiny.params["transformer"]}
    found = [loss(params, batch | more) for more in ({}, {"references": seen}, {"style": seen[:, :1]})]
    assert len({round(float(value), 6) for value in found}) == 3
    slopes = jax.jit(jax.grad(lambda pictures: loss(params, batch | {"references": pictures})))(seen)
    assert all(jnp.abs(slopes[:, i]).max() > 0 for i in range(3)), "each picture is looked at"


def test_fine_tuned_model_takes_references(task, tiny, tmp_path, monkeypatch):
    """The whole way: a few steps with and without pictures, and an exported model that says what it learnt."""
    monkeypatch.setattr(references, "COUNTS", {2: 1.0})  # each number is a program of its own
    task = dataclasses.replace(task, style_share=0.0)
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=1, weight_decay=0.0)
    config = TrainConfig(task, 4, 4, optimizer=optimizer, ema_decay=0.5, log_every=2, eval_every=4)
    train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines if line["kind"] == "train")
    assert {line["kind"] for line in lines} == {"train", "eval"}
    model = vidjax.load(tmp_path / "run" / "export")
    learnt = dataclasses.replace(tiny.config.sampling, given="any", references=3)
    assert model.config == dataclasses.replace(tiny.config, sampling=learnt)
    picture = np.zeros((16, 32, 3), np.uint8)
    assert len(make_request(model, "it spins", references=[picture] * 3).given.references) == 3
    assert taught(0.0, 0.1) == {"style_image": True}


@pytest.fixture
def new(tiny, monkeypatch):
    """A denoiser with its text encoder, from nothing."""
    monkeypatch.setattr(denoiser, "TOKENIZER_CAPTIONS", 200)
    config = tiny.config
    return DenoiserTask(
        "", config.transformer, config.text_encoder, config.sampling, data=ClipData(num_clips=32), reference_share=0.5
    )


def test_denoiser_from_nothing(new, tiny, pictures):
    """Its probe must not ask the text for what only pictures show, and its words must be known."""
    tokenizer = new.tokenizer()
    examples = [e for e in (with_pictures(Clips(8), new.data, 0.5, 0.2).sources[3]) for _ in range(4)]
    rows = [new.transform(tokenizer, e, np.random.default_rng(i), pictures) for i, e in enumerate(examples)]
    untold = [row for row in rows if (row["factors"][:3] == -1).all() and (row["factors"][3:] >= 0).all()]
    assert len(untold) > len(rows) / 2
    assert {row["references"].shape for row in rows} == {(3, 1, 2, 4)}
    batch = jax.tree.map(lambda *row: jnp.asarray(np.stack(row)), *rows[:4])
    # The tiny model's, with rows for the new words.
    table = tiny.params["text_encoder"]["shared"]["embedding"]
    table = jnp.pad(table, ((0, new.text_config().vocab_size - len(table)), (0, 0)))
    params = {name: tiny.params[name] for name in ("transformer", "text_encoder")}
    params["text_encoder"] = {**params["text_encoder"], "shared": {"embedding": table}}
    params["probe"] = probe.init(new.text.d_model, jax.random.key(0))
    found = [
        jax.jit(new.loss)(params, rows, jax.random.key(0))[0]
        for rows in (batch, batch | {"references": -batch["references"]})
    ]
    assert found[0] != found[1]
    captions = untold_captions(new.data, 50)
    assert {"it", "subject", "one"} <= {word for text in captions for word in text.replace(",", "").split()}
    plain = dataclasses.replace(new, reference_share=0.0)
    assert tokenizer.spiece != plain.tokenizer().spiece


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reference_share": 1.0}, r"reference_share=1.0: must lie in \[0, 1\)"),
        ({"style_share": -0.1}, "style_share=-0.1: must lie"),
        ({"portraits": 2}, "portraits=2: must lie between 3"),
        ({"reference_share": 0.6, "style_share": 0.4}, "must leave examples without"),
        ({"data": FolderData("nowhere")}, "reference_share=0.5: FolderData has no pictures of its subjects"),
        ({"data": FolderData("nowhere"), "untold_share": 0.1}, "only captions of the shapes world"),
        ({"untold_share": 1.5}, "untold_share=1.5: must lie"),
        ({"lora": LoRAConfig(4)}, "a LoRA cannot say .* give lora=none"),
    ],
)
def test_refused(task, change, said):
    """Found before anything is rendered or compiled."""
    wrong = dataclasses.replace(task, **change)
    with pytest.raises(InputError, match=said):
        wrong.make(TrainConfig(wrong, 1, 4))
