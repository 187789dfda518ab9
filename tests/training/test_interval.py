import json

import jax.numpy as jnp
import pytest

from vidjax.training import interval
from vidjax.training.interval import Clock, Window
from vidjax.training.utilization import Work


def test_window_survives_a_checkpoint():
    """A mean logged after a resume would otherwise cover only the steps since."""
    values = [1.0, 2.0, float("nan"), 5.0]
    whole, first = Window(), Window()
    for value in values:
        whole.add({"loss": jnp.float32(value)})
    for value in values[:2]:
        first.add({"loss": jnp.float32(value)})
    second = Window(json.loads(json.dumps(first.as_json())))
    for value in values[2:]:
        second.add({"loss": jnp.float32(value)})
    assert second.means() == whole.means() == {"loss": 8.0 / 3}
    assert second.means() == {}


def test_where_the_time_goes(monkeypatch):
    """Speeds would be off by the evaluations, or shares by what they are shares of."""
    now = [0.0]
    monkeypatch.setattr(interval.time, "perf_counter", lambda: now[0])
    clock = Clock(peak=1000.0)

    def spend(seconds, on=None):
        if on is None:
            now[0] += seconds
        else:
            with clock.waiting(on):
                now[0] += seconds

    spend(100.0)  # the first step compiles
    clock.tick(Work(10, 500.0))
    for _ in range(2):
        spend(2.0, "data")
        spend(1.0)
        clock.tick(Work(10, 500.0))
    spend(2.0, "save")
    spend(5.0, "eval")
    spend(3.0, "compile")
    measures = clock.read()
    expected = {"steps_per_second": 2 / 8, "tokens_per_second": 20 / 8, "mfu": 1000 / 8 / 1000}
    expected |= {
        "data_wait": 4 / 16,
        "save_wait": 2 / 16,
        "eval_wait": 5 / 16,
        "compile_wait": 3 / 16,
        "goodput": 2 / 16,
    }
    assert measures == pytest.approx(expected)
    spend(1.0)
    clock.tick(Work())
    assert clock.read() == pytest.approx(
        {
            "steps_per_second": 1.0,
            **dict.fromkeys(("data_wait", "save_wait", "eval_wait", "compile_wait"), 0.0),
            "goodput": 1.0,
        }
    )
