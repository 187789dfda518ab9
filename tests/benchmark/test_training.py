"""The two steps that are timed side by side are steps of one model."""

import dataclasses
import json

import jax
import pytest

from vidjax import cli
from vidjax.benchmark import training
from vidjax.errors import InputError

SMALL = dataclasses.replace(
    training.MODEL, num_attention_heads=2, attention_head_dim=12, text_dim=8, ffn_dim=16, num_layers=1
)


def test_size_is_the_one_that_is_said():
    """A smaller model would be a faster one."""
    count = sum(leaf.size for leaf in jax.tree.leaves(training._abstract(training.MODEL)))
    assert 65e6 < count < 75e6


def test_report(monkeypatch):
    """The first step compiles and must not count; rates follow from the median."""
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None)
    report = training.train(steps=3, batch=1, model=SMALL)
    assert (report.tokens, report.batch, len(report.seconds)) == (1280, 1, 3)
    assert report.reference_seconds is None
    assert report.ratio is None
    assert report.tokens_per_second == 1280 / sorted(report.seconds)[1]
    assert "pip install 'vidjax[parity]'" in str(report)


@pytest.mark.parity
def test_reference_has_the_same_parameters():
    """A step of another model would be no comparison."""
    from diffusers import WanTransformer3DModel

    module = WanTransformer3DModel(**dataclasses.asdict(SMALL))
    ours = sum(leaf.size for leaf in jax.tree.leaves(training._abstract(SMALL)))
    assert sum(p.numel() for p in module.parameters()) == ours
    report = training.train(steps=1, batch=1, model=SMALL)
    assert report.ratio == report.seconds[0] / report.reference_seconds[0]


def test_refused():
    with pytest.raises(InputError, match="steps=0: must be at least 1"):
        training.train(steps=0)


def test_from_the_command_line(monkeypatch, capsys):
    report = training.TrainReport(1, 2, 3, (1.0,), 6.0, None, None)
    monkeypatch.setattr("vidjax.benchmark.train", lambda steps: dataclasses.replace(report, tokens=steps))
    cli.run(cli.parse(["benchmark", "train", "--steps", "7", "--json"]))
    assert json.loads(capsys.readouterr().out)["tokens"] == 7
