"""The command line: chooses the command, one file each, and says in one line what a user got wrong."""

import contextlib
import io
import itertools
import os
import re
import select
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Union

import tyro

from vidjax.cli import adapt, benchmark, data, evaluate, export, generate, plan, train
from vidjax.errors import InputError

COMMANDS = {
    "generate": (generate.Generate, generate.run),
    "data": (data.Data, data.run),
    "train": (train.Train, train.run),
    "export": (export.Export, export.run),
    "adapt": (adapt.Adapt, adapt.run),
    "evaluate": (evaluate.Evaluate, evaluate.run),
    "benchmark": (benchmark.Benchmark, benchmark.run),
    "plan": (plan.Plan, plan.run),
}
"""The flags of each, and what runs it; in the order of the help."""


def main() -> None:
    """Entry point: errors that a user can cause are one line on standard error and exit code 2."""
    warnings.showwarning = _show_warning
    try:
        try:
            run(parse())
        finally:
            sys.stdout.flush()
    except InputError as error:
        print(f"vidjax: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("vidjax: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        # What is left goes nowhere, or Python would try once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # as a shell says of what SIGPIPE ends


def run(command: Any) -> None:
    """Does what a command of `parse` asks for."""
    dict(COMMANDS.values())[type(command)](command)


def parse(arguments: Sequence[str] | None = None) -> Any:
    """The command that these words, or those of this process, ask for.

    Raises:
      InputError: they ask for none.
    """
    choice = tuple(Annotated[flags, tyro.conf.subcommand(name)] for name, (flags, _) in COMMANDS.items())
    said, arguments = io.StringIO(), list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["train"]:
        arguments = train.gather_overrides(arguments)
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                Union[choice],  # noqa: UP007
                args=arguments,
                prog="vidjax",
                description="Text to video and image to video in JAX.",
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise InputError(f"{_in_a_line(said.getvalue())}; see vidjax --help") from None


def _in_a_line(box: str) -> str:
    """What the parser says of a mistake, out of its box and without the help that follows the first paragraph."""
    # Where such lines cannot be drawn there are others, and one more below the title.
    lines = [line.strip("│").rstrip() for line in box.splitlines()[1:]]
    within = itertools.dropwhile(lambda line: not line.strip(" ─-"), lines)
    first = list(itertools.takewhile(lambda line: line.strip(" ─-"), within))
    if first and first[0].strip().startswith("Missing from"):
        names = [line.strip() for line in first[1:] if not line.startswith(" " * 8)]  # what is deeper is help
        return f"missing: {', '.join(names)}"
    text = " ".join(line.strip() for line in first).rstrip(".")
    if unread := re.fullmatch(r"Error parsing (\S+): no type matching \S*(INT|FLOAT) could .* from \['(.*)'\]", text):
        option, kind, value = unread.groups()
        return f"{option} {value}: {'a whole number' if kind == 'INT' else 'a number'} is expected"
    if unread := re.fullmatch(r"Error parsing (\S+): invalid literal for int\(\) .*: '(.*)'", text):
        return f"{unread[1]} {unread[2]}: a whole number is expected"
    if unread := re.fullmatch(r"Error parsing (\S+): Could not find valid parse for arguments: \[(.*)\]", text):
        return f"{unread[1]} {unread[2]}: its values have another form"
    return text


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more, as after ``| head -1``."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if issubclass(category, UserWarning):
        print(f"vidjax: {message}", file=sys.stderr)
