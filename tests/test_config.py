import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from vidjax.config import (
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
    differences,
    from_text,
    load_config,
    override,
    shrink,
    to_text,
)
from vidjax.errors import InputError

CONFIG = Path(__file__).parent / "training" / "regression.py"


@dataclasses.dataclass(frozen=True)
class Settings:
    width: int = 4
    rate: float = 0.5
    on: bool = False
    name: str = "a"
    mode: Literal["fast", 2] = "fast"
    limit: int | None = None
    size: tuple[int, int] = (1, 2)
    many: tuple[float, ...] = ()
    mesh: MeshConfig = MeshConfig()
    spare: MeshConfig | None = MeshConfig()


@pytest.mark.parametrize(
    ("item", "field", "value"),
    [
        ("width=1_000", "width", 1000),
        ("width=1e3", "width", 1000),
        ("rate=3", "rate", 3.0),
        ("on=true", "on", True),
        ("on=0", "on", False),
        ("name=none", "name", "none"),
        ("name=a=b", "name", "a=b"),
        ("mode=2", "mode", 2),
        ("limit=7", "limit", 7),
        ("limit=None", "limit", None),
        ("size=(3, 4)", "size", (3, 4)),
        ("many=1,2.5", "many", (1.0, 2.5)),
        ("many=", "many", ()),
        ("mesh.fsdp=-1", "mesh", MeshConfig(fsdp=-1)),
        ("spare=none", "spare", None),
    ],
)
def test_override_reads_the_declared_type(item, field, value):
    """A value of the wrong type passes silently into the run: 'false' as text is true."""
    read = getattr(override(Settings(), item), field)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("widht=3", r"no setting 'widht'; nearest first: width, "),
        ("mesh.fdsp=3", r"no setting 'mesh.fdsp'; nearest first: mesh.fsdp, "),
        ("width=3.5", "width=3.5: a whole number is expected"),
        ("width=x", "width=x: a whole number is expected"),
        ("on=maybe", "on=maybe: true or false is expected"),
        ("mode=slow", "mode=slow: one of fast, 2 is expected"),
        ("limit=x", "limit=x: a whole number or none is expected"),
        ("size=1,2,3", "size=1,2,3: a tuple such as 2,2 is expected"),
        ("rate=nan", "rate=nan: a number is expected"),
        ("mesh=3", "has parts and cannot be set whole; set one of mesh.data"),
        ("spare=3", "cannot be set whole, but for none; set one of spare.data"),
        ("width.a=3", "'width' has no parts"),
        ("width", "written key=value"),
    ],
)
def test_override_errors_name_what_is_valid(item, message):
    with pytest.raises(InputError, match=message):
        override(Settings(), item)


def test_load_config_applies_overrides_in_order():
    config = load_config(CONFIG, ["task.size=16", "optimizer.name=muon", "steps=5", "steps=6", "task.note=none"])
    assert (config.task.size, config.optimizer.name, config.steps, config.task.note) == (16, "muon", 6, None)


def test_load_config_errors(tmp_path):
    with pytest.raises(InputError, match=r"no configuration file .*regresion.py; the nearest there is .*regression.py"):
        load_config(CONFIG.with_name("regresion.py"))
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(InputError, match="must define get_config"):
        load_config(tmp_path / "empty.py")
    (tmp_path / "broken.py").write_text("x = 1\ny = (\n")
    with pytest.raises(InputError, match=r"broken.py, line 2: "):
        load_config(tmp_path / "broken.py")
    (tmp_path / "other.py").write_text("def get_config(): return 3\n")
    with pytest.raises(InputError, match="returned int, not TrainConfig"):
        load_config(tmp_path / "other.py")
    with pytest.raises(InputError, match=r"ema_decay=1\.0: must lie in"):
        load_config(CONFIG, ["ema_decay=1"])
    with pytest.raises(InputError, match="steps=0: must be at least 1"):
        load_config(CONFIG, ["steps=0"])
    for wrong in (
        "learning_rate=-1",
        "learning_rate=inf",
        "warmup_steps=-5",
        "b1=2",
        "clip_norm=-1",
        "weight_decay=nan",
    ):
        with pytest.raises(InputError, match=f"optimizer.{wrong.split('=')[0]}="):
            load_config(CONFIG, [f"optimizer.{wrong}"])
    with pytest.raises(InputError, match="batch_size=1000000000: must lie between 1 and"):
        load_config(CONFIG, ["batch_size=1000000000"])
    with pytest.raises(InputError, match="data_workers=-1: must lie between 0"):
        load_config(CONFIG, ["data_workers=-1"])
    with pytest.raises(InputError, match="wandb=: must name a project"):
        load_config(CONFIG, ["wandb="])


def test_text_gives_the_configuration_back():
    """An export long after the run rebuilds the model from this text alone."""
    config = TrainConfig(task=OptimizerConfig(b1=0.5), steps=3, batch_size=2, mesh=MeshConfig(data=-1))
    assert from_text(to_text(config)) == config
    with pytest.raises(InputError, match="outside vidjax"):
        from_text('{"type": "os:system"}')
    with pytest.raises(InputError, match="cannot be read"):
        from_text('{"type": "vidjax.config:Gone"}')


def test_differences_ignores_parts():
    one = TrainConfig(task=None, steps=3, batch_size=2)
    two = dataclasses.replace(one, steps=4, batch_size=3, mesh=MeshConfig(fsdp=2))
    assert differences(to_text(one), to_text(two), ["steps", "mesh"]) == {"batch_size": (2, 3)}


@pytest.mark.parametrize(
    ("mesh", "devices", "expected", "batch"),
    [
        (MeshConfig(fsdp=64), 8, MeshConfig(data=-1), 8),
        (MeshConfig(data=-1, fsdp=2), 8, MeshConfig(data=-1, fsdp=2), 8),
        (MeshConfig(data=2, fsdp=16), 1, MeshConfig(data=-1), 4),
    ],
)
def test_smoke_fits_the_machine(mesh, devices, expected, batch):
    """`--smoke` of a pod's configuration must run on a laptop."""
    small = shrink(dataclasses.replace(load_config(CONFIG), mesh=mesh, batch_size=512, steps=10**6), devices)
    assert small.mesh == expected
    assert (small.batch_size, small.steps) == (batch, 20)


@pytest.mark.parametrize("stored", ["garbage", "[1", "1}"])
def test_a_damaged_stored_configuration_is_told_in_a_line(stored):
    """What a crash left half written would be a traceback at the next start."""
    with pytest.raises(InputError, match="the stored configuration cannot be read"):
        differences(stored, to_text(load_config(CONFIG)))
