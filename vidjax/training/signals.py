"""Being asked to stop: SIGTERM, as preemption sends it, and SIGINT."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax


class Interrupted(SystemExit):
    """The run was asked to stop, and nothing is lost; the exit code is 128 + the signal's number."""

    def __init__(self, signum: int):
        super().__init__(128 + signum)


class Signals(NamedTuple):
    """``received(step)``: the signal that asked to stop, or 0. Inside ``saved()``, for when nothing is to be lost,
    SIGTERM ends the process where it stands: the compiler, for one, cannot be asked."""

    received: Callable[[int], int]
    saved: Callable[[], AbstractContextManager[None]]


@contextlib.contextmanager
def watch_signals() -> Iterator[Signals]:
    """The signals that come meanwhile; a second one has its usual effect.

    With several processes the one that is told to stop tells the others, through jax.distributed, after which
    step; that service has its own handler of SIGTERM.
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        together = multihost_utils.reached_preemption_sync_point
        yield Signals(lambda step: signal.SIGTERM if together(step) else 0, contextlib.nullcontext)
        return
    if threading.current_thread() is not threading.main_thread():
        # Python lets only the main thread handle signals.
        yield Signals(lambda step: 0, contextlib.nullcontext)
        return
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handler(signum: int, frame: Any) -> None:
        del frame
        received.append(signum)
        signal.signal(signum, before[signum])

    @contextlib.contextmanager
    def saved() -> Iterator[None]:
        if received:
            raise Interrupted(received[0])
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, handler)

    for number in before:
        signal.signal(number, handler)
    try:
        yield Signals(lambda step: received[0] if received else 0, saved)
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
