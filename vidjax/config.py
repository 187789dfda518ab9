"""Configurations: frozen dataclasses, written in Python files, changed by `key=value` on the command line."""

import ast
import dataclasses
import difflib
import importlib
import importlib.util
import json
import math
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Union

from vidjax.checks import number, whole
from vidjax.errors import InputError

CONFIG_MODULE = "vidjax_config_"
"""Configuration files are modules of this name and their own; nothing can import them."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How parameters follow their gradients. The learning rate warms up linearly, then keeps to the schedule.

    `clip_norm=0` turns clipping off.
    """

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-4
    warmup_steps: int = 1000
    schedule: Literal["cosine", "constant"] = "constant"
    b1: float = 0.9
    b2: float = 0.99
    weight_decay: float = 0.01
    clip_norm: float = 1.0

    def __post_init__(self):
        number("optimizer.learning_rate", self.learning_rate, 0, 100)
        whole("optimizer.warmup_steps", self.warmup_steps, 0, 2**31 - 1)
        number("optimizer.weight_decay", self.weight_decay, 0, 100)
        number("optimizer.clip_norm", self.clip_norm, 0, 1e9)
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"optimizer.{name}={getattr(self, name)}: must lie in [0, 1)")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one may be -1."""

    data: int = 1
    fsdp: int = 1
    context: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run. `task`, a frozen dataclass, says what is trained on what (`train.task.TaskConfig`).

    `batch_size` is the global one, walked in `accumulation` parts. Intervals are in steps; without
    `sample_every` no clips are made to look at. Of the checkpoints the newest `keep_last` are kept, and with
    `keep_every` one of every so many steps besides. `wandb` is a project of Weights & Biases to show the run in.
    """

    task: Any
    steps: int
    batch_size: int
    accumulation: int = 1
    seed: int = 0
    optimizer: OptimizerConfig = OptimizerConfig()
    ema_decay: float = 0.999
    mesh: MeshConfig = MeshConfig()
    log_every: int = 50
    eval_every: int = 1000
    sample_every: int | None = None
    save_every: int = 1000
    keep_last: int = 2
    keep_every: int | None = None
    data_workers: int = 0
    wandb: str | None = None

    def __post_init__(self):
        for name in ("steps", "accumulation", "log_every", "eval_every", "save_every", "keep_last"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("sample_every", "keep_every"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: must be at least 1, or none")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay={self.ema_decay}: must lie in [0, 1)")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed={self.seed}: must lie in [0, 2**32)")
        whole("data_workers", self.data_workers, 0, 4096)
        whole("batch_size", self.batch_size, 1, 2**20)
        if self.wandb == "":
            raise InputError("wandb=: must name a project, or be none")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Run a configuration file's `get_config()` and apply `a.b=value` overrides.

    Raises:
      InputError: the file is missing or has no `get_config`; no such key; a value is not of its type.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], 1, 0.0)
        hint = f"; the nearest there is {path.parent / near[0]}" if near else ""
        raise InputError(f"no configuration file {path}{hint}")
    # Registered, since dataclasses look their module up.
    spec = importlib.util.spec_from_file_location(CONFIG_MODULE + path.stem, path.resolve())
    if spec is None or spec.loader is None:
        raise InputError(f"configuration file {path}: must be a Python file, named *.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise InputError(f"configuration file {path}, line {error.lineno}: {error.msg}") from error
    if not hasattr(module, "get_config"):
        raise InputError(f"configuration file {path}: must define get_config() -> TrainConfig")
    config = module.get_config()
    if not isinstance(config, TrainConfig):
        raise InputError(f"configuration file {path}: get_config() returned {type(config).__name__}, not TrainConfig")
    for item in overrides:
        config = override(config, item)
    return config


def override(config: Any, item: str) -> Any:
    """`config` with one `a.b=value` applied.

    Raises:
      InputError: no such key (the nearest and all valid ones are named), or a value not of the field's type.
    """
    key, equals, text = item.partition("=")
    if not equals:
        raise InputError(f"{item!r}: an override is written key=value")
    return _replace(config, key.strip().split("."), (), text.strip())


def _replace(config: Any, key: list[str], parents: tuple[str, ...], text: str) -> Any:
    name, rest = key[0], key[1:]
    where = ".".join((*parents, name))
    fields = [f.name for f in dataclasses.fields(config) if f.init]
    if name not in fields:
        near = difflib.get_close_matches(name, fields, len(fields), 0.0)
        valid = ", ".join(".".join((*parents, n)) for n in near)
        raise InputError(f"no setting {where!r}; nearest first: {valid}")
    value = getattr(config, name)
    if rest:
        if not dataclasses.is_dataclass(value):
            raise InputError(
                f"{where!r} has no parts, so {'.'.join((where, *rest))!r} does not exist; write {where}=value"
            )
        return dataclasses.replace(config, **{name: _replace(value, rest, (*parents, name), text)})
    hint = typing.get_type_hints(type(config))[name]
    if dataclasses.is_dataclass(value):
        optional = type(None) in typing.get_args(hint)
        if optional and text.lower() == "none":
            return dataclasses.replace(config, **{name: None})
        parts = ", ".join(f"{where}.{f.name}" for f in dataclasses.fields(value))
        whole = "set whole, but for none" if optional else "set whole"
        raise InputError(f"{where!r} has parts and cannot be {whole}; set one of {parts}")
    try:
        return dataclasses.replace(config, **{name: parse_value(text, hint)})
    except InputError:
        raise
    except (ValueError, SyntaxError) as error:
        raise InputError(f"{where}={text}: {describe(hint)} is expected") from error


def parse_value(text: str, hint: Any) -> Any:
    """Read `text` as the annotated type: numbers, bool, str, None, Literal, tuple, and unions of these.

    Raises:
      ValueError: it is not one.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
    if origin in (Union, types.UnionType):
        # None first and text last: `x=none` means None and `x=3` a number wherever the field allows it.
        for option in sorted(arguments, key=lambda a: 0 if a is type(None) else 2 if a is str else 1):
            try:
                return parse_value(text, option)
            except (ValueError, SyntaxError):
                continue
        raise ValueError(text)
    if origin is Literal:
        for choice in arguments:
            if text == str(choice):
                return choice
        raise ValueError(text)
    if origin is tuple:
        parts = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()]
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            arguments = (arguments[0],) * len(parts)
        if len(parts) != len(arguments):
            raise ValueError(text)
        return tuple(parse_value(part.strip("'\""), of) for part, of in zip(parts, arguments, strict=True))
    if hint is type(None):
        if text.lower() in ("none", "null"):
            return None
        raise ValueError(text)
    if hint is bool:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[_known(text.lower())]
    if hint is int:
        number = float(text) if "e" in text.lower() else int(text.replace("_", ""))
        if number != int(number):
            raise ValueError(text)
        return int(number)
    if hint is float:
        number = float(text)
        if math.isnan(number):
            raise ValueError(text)
        return number
    if hint in (str, Path):
        return hint(text)
    raise ValueError(text)


def _known(text: str) -> str:
    if text not in ("true", "1", "yes", "false", "0", "no"):
        raise ValueError(text)
    return text


def is_of(value: Any, hint: Any) -> bool:
    """Whether a value is of the annotated type, of those that `parse_value` reads; a whole number is a number too."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(is_of(value, option) for option in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            arguments = (arguments[0],) * len(value)
        return len(value) == len(arguments) and all(map(is_of, value, arguments))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)


def describe(hint: Any) -> str:
    """What is expected, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(describe(a) for a in arguments)
    if origin is tuple:
        return "a tuple such as " + ",".join(
            {float: "1.0", bool: "true"}.get(a, "2") for a in arguments if a is not Ellipsis
        )
    names = {bool: "true or false", int: "a whole number", float: "a number", type(None): "none", str: "text"}
    return names.get(hint, f"a value of type {getattr(hint, '__name__', hint)} (set it in the file)")


def shrink(config: TrainConfig, num_devices: int) -> TrainConfig:
    """The configuration for `--smoke`: every part of the program, at a size that takes seconds.

    The task shrinks itself. A mesh that does not fit the devices at hand becomes plain data parallelism.
    """
    sizes = dataclasses.asdict(config.mesh)
    fixed = math.prod(size for size in sizes.values() if size != -1)
    fits = num_devices % fixed == 0 if -1 in sizes.values() else fixed in (1, num_devices)
    mesh = config.mesh if fits else MeshConfig(data=-1)
    return dataclasses.replace(
        config,
        task=config.task.smoke(),
        steps=min(config.steps, 20),
        batch_size=max(num_devices, 4 // num_devices * num_devices),
        accumulation=1,
        optimizer=dataclasses.replace(config.optimizer, warmup_steps=min(config.optimizer.warmup_steps, 5)),
        mesh=mesh,
        log_every=5,
        eval_every=10,
        sample_every=config.sample_every and 10,
        save_every=10,
        data_workers=min(config.data_workers, 1),
    )


def to_text(config: Any) -> str:
    """A configuration as JSON, with the names of its classes under `"type"`; see `from_text`."""
    return json.dumps(_encode(config), indent=1) + "\n"


def from_text(text: str) -> Any:
    """The configuration that `to_text` wrote.

    Raises:
      InputError: it is damaged, or names a class that does not exist or lies outside this package.
    """
    try:
        return _decode(json.loads(text))
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        raise InputError(f"the stored configuration cannot be read ({error}); give the configuration file") from error


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": f"{type(value).__module__}:{type(value).__qualname__}", **fields}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _encode(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "type" not in value:
        return {key: _decode(item) for key, item in value.items()}
    module, _, name = value["type"].partition(":")
    # A stored text must not decide which code is imported.
    if module.split(".")[0] != "vidjax":
        raise InputError(
            f"the stored configuration uses {value['type']!r}, outside vidjax: give the configuration file"
        )
    kind = getattr(importlib.import_module(module), name)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise InputError(f"the stored configuration names {value['type']!r}, which is no configuration")
    return kind(**{key: _decode(item) for key, item in value.items() if key != "type"})


def differences(old: str, new: str, ignore: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
    """`{field: (old, new)}` where two texts of `to_text` differ, save the fields (with parts) to ignore.

    Raises:
      InputError: one is damaged.
    """
    try:
        before, after = _flatten(json.loads(old)), _flatten(json.loads(new))
    except ValueError as error:
        raise InputError(f"the stored configuration cannot be read ({error}); choose another --workdir") from error
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not any(key == i or key.startswith(i + ".") for i in ignore)
    }


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        k: v for name, item in value.items() for k, v in _flatten(item, f"{prefix}.{name}" if prefix else name).items()
    }
