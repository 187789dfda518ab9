"""Several processes as one program: they find each other at the start, and end together.

Each process drives the devices it sees; ``jax.distributed`` joins them, with process 0 as the coordinator. On top
of it: a process that fails or disappears ends the others too, with one line that names it (`watch`).
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

import jax

from vidjax.errors import InputError
from vidjax.parallel import watch
from vidjax.parallel.cluster import detect, slurm_devices

RUNTIME_SECONDS = 45
"""A process of which JAX hears nothing for so long is gone; it aborts the others, but ours has mostly ended them."""

START_SECONDS = 300
"""How long processes wait for each other at the start."""


@contextlib.contextmanager
def together(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    start_timeout: float = START_SECONDS,
) -> Iterator[int]:
    """This process as one of several while inside; yields its number, 0 where it is alone.

    To be entered before anything touches a device. Cloud TPU, SLURM, Kubernetes (indexed jobs) and Open MPI are
    recognised; elsewhere the arguments say it. ``num_processes=1`` runs alone whatever the environment.

    An exception inside ends this process and, within seconds, the others: an `InputError` with exit code 2 and its
    line, any other with 1. `SystemExit` is taken for agreed: all processes leave together.

    Raises:
      InputError: the arguments do not fit, or not all processes came within ``start_timeout`` seconds.
    """
    if not start(coordinator, num_processes, process_id, start_timeout):
        yield 0
        return
    from jax._src import distributed  # as Orbax does: the key-value store has no public name

    state = distributed.global_state
    try:
        beside = _start_watch(state)
    except (InputError, jax.errors.JaxRuntimeError) as error:
        _quit(f"the processes cannot watch over each other: {str(error).splitlines()[0]}", 2)
    try:
        yield state.process_id
    except SystemExit:
        _leave(beside, state.client)
        raise
    except InputError as error:
        _fail(beside, str(error), 2)
    except KeyboardInterrupt:
        _fail(beside, "interrupted", 130)
    except BaseException as error:
        own = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")
        if isinstance(error, jax.errors.JaxRuntimeError) and not str(error).startswith(own):
            # Most often the first sign that another process is gone: the watch will say which, and end this one.
            time.sleep(watch.GONE_SECONDS + 3 * watch.BEAT_SECONDS)
        traceback.print_exc()
        _fail(beside, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", 1)
    else:
        _leave(beside, state.client)


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float = START_SECONDS,
    environ: Mapping[str, str] | None = None,
) -> bool:
    """Start ``jax.distributed`` where there are several processes; whether there are. See `together`."""
    environ = os.environ if environ is None else environ
    if num_processes == 1 and process_id in (None, 0):
        return False
    given = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        cluster = detect(environ)
        if cluster is None:
            return False
        settings = {"local_device_ids": slurm_devices(environ) if cluster == "SLURM" else None}
        what = f"{cluster} was recognised"
    else:
        if missing:
            raise InputError(
                f"{', '.join(n for n in given if n not in missing)} given without {' and '.join(missing)}; several "
                "processes need --coordinator HOST:PORT, --num-processes N and, each its own, --process-id I"
            )
        if timeout <= 0:
            raise InputError(f"--start-timeout {timeout:g}: must be above 0 seconds")
        host, port = _address(coordinator)
        if num_processes < 1:
            raise InputError(f"--num-processes {num_processes}: must be at least 1")
        if not 0 <= process_id < num_processes:
            raise InputError(f"--process-id {process_id}: must lie between 0 and {num_processes - 1}")
        if process_id > 0:
            _reach(host, port, timeout)
        settings = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
        settings |= {"cluster_detection_method": "deactivate"}
        what = f"--coordinator {coordinator}"

    def too_late() -> None:
        # JAX would abort: the thread that waits cannot be told to give up.
        _quit(f"{what}, but not all processes came within {timeout:g} s; see that each was started with an address "
              "at which process 0 can be reached, or give --num-processes 1 to run alone", 2)  # fmt: skip

    timer = threading.Timer(timeout, too_late)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            initialization_timeout=int(timeout) + 60, heartbeat_timeout_seconds=RUNTIME_SECONDS, **settings
        )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        if "already" in str(error) or "before any JAX calls" in str(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "start RPC server" in reason:
            reason = "its port is taken on this machine: choose another"
        raise InputError(f"{what}, but the processes could not be joined: {reason}") from error
    finally:
        timer.cancel()
    return True


class _Watch(NamedTuple):
    """The watch beside this process, and what it calls it."""

    program: subprocess.Popen
    name: str


def _start_watch(state: Any) -> _Watch:
    """Has `watch` run beside this process, connected to the others'."""

    def name(index: int, host: str) -> str:
        return f"process {index} of {state.num_processes} ({host})"

    me, first = name(state.process_id, socket.gethostname()), name(0, state.coordinator_address)
    host = _address(state.coordinator_address)[0]
    port = 0 if state.process_id == 0 else int(state.client.blocking_key_value_get("vidjax/watch", 60_000))
    program = subprocess.Popen(
        [sys.executable, "-S", "-E", watch.__file__, me, host, str(port), first],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, text=True,
    )  # fmt: skip
    answer = program.stdout.readline().strip()
    if not answer:
        raise InputError(f"{host}:{port} cannot be reached; processes need all ports between their machines")
    if state.process_id == 0:
        state.client.key_value_set("vidjax/watch", answer)
    state.client.wait_at_barrier("vidjax/watch", timeout_in_ms=60_000)

    def obey() -> None:
        code = program.stdout.readline()
        if code:
            _quit(None, int(code))

    threading.Thread(target=obey, daemon=True).start()
    return _Watch(program, me)


def _fail(beside: _Watch, line: str, code: int) -> NoReturn:
    """Ends this process, and has the watch tell the others."""
    print(f"vidjax: {line}" if code == 130 else f"vidjax: error: {line}", file=sys.stderr, flush=True)
    line = " ".join(line.split())
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        beside.program.stdin.write(f"ended {code} {beside.name} ended: {line}\n")
        beside.program.stdin.flush()
        beside.program.wait(watch.END_SECONDS + watch.VERDICT_SECONDS)
    _quit(None, code)


def _leave(beside: _Watch, client: Any) -> None:
    """Waits for the others, who may have longer to do, and parts."""
    client.wait_at_barrier("vidjax/end", timeout_in_ms=7 * 24 * 3600 * 1000)
    with contextlib.suppress(OSError):
        beside.program.stdin.write("left\n")
        beside.program.stdin.close()
        beside.program.wait()
    jax.distributed.shutdown()


def _quit(line: str | None, code: int) -> NoReturn:
    """Ends the process at once: whatever waits for a process that is gone would wait for ever."""
    if line is not None:
        print(f"vidjax: error: {line}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"--coordinator {text}: HOST:PORT is expected, such as 10.0.0.1:8476, the port below 65536")
    return host.strip("[]"), int(port)


def _reach(host: str, port: int, timeout: float) -> None:
    """Waits until somebody listens there: process 0 may be started later, and its name may not be known yet."""
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), 5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise InputError(
                    f"--coordinator {host}:{port}: nobody answers there after {timeout:g} s "
                    f"({error.strerror or error}); give the address of process 0, as it was given to that one"
                ) from None
        time.sleep(0.5)
