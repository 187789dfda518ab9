"""The watch: a small program beside each of several processes, which ends them all, with one line, when one ends.

It runs on its own, with the standard library alone, because what it watches may be killed, or aborted by a runtime
that leaves no chance to say why. The watches of all processes are connected to that of process 0, the hub; the first
end that the hub hears of is the one that all of them tell.

From the process, on standard input: ``left`` (all is done), ``ended CODE TEXT`` (an error, already printed), or the
end of the stream: it died. To the process, on standard output: at first the hub's port, or ``connected``; then the
exit code to end with. Between watches: ``hello NAME``, ``beat``, ``left``, ``ended CODE TEXT``.
"""

import contextlib
import os
import selectors
import signal
import socket
import sys
import time

BEAT_SECONDS = 2.0
"""How often watches say that they are there."""

GONE_SECONDS = 30.0
"""A machine that has not said so for this long is gone."""

VERDICT_SECONDS = 3.0
"""How long a watch whose process has ended waits for the hub to say whose end was the first."""

END_SECONDS = 10.0
"""A process that has not ended by then is killed."""


class Peer:
    """Another watch, at the other end of a connection; without a name it may be a stranger who tries all ports."""

    def __init__(self, connection: socket.socket, name: str):
        self.connection, self.name = connection, name
        self.heard, self.text, self.left = time.monotonic(), b"", False

    def send(self, line: str) -> None:
        """Says a line; one that is lost shows when the other side is silent."""
        with contextlib.suppress(OSError):
            self.connection.sendall(line.encode() + b"\n")

    def receive(self) -> list[str] | None:
        """Lines that have come; None at the end of the stream."""
        try:
            chunk = self.connection.recv(65536)
        except OSError:
            chunk = b""
        self.heard = time.monotonic()
        *lines, self.text = (self.text + chunk).split(b"\n")
        return [line.decode(errors="replace") for line in lines] if chunk else None

    def is_closed(self) -> bool:
        """Whether the other side has hung up; what it says is not listened to any more."""
        try:
            return not self.connection.recv(65536)
        except TimeoutError:
            return False
        except OSError:
            return True


def watch(me: str, host: str, port: int, hub_name: str) -> None:
    """Watches over the process that started this one; ``port=0`` is the hub, others find it at ``host:port``."""
    is_hub = port == 0
    selector = selectors.DefaultSelector()
    peers: list[Peer] = []

    def add(connection: socket.socket, name: str) -> None:
        connection.settimeout(5)
        peers.append(Peer(connection, name))
        selector.register(connection, selectors.EVENT_READ, peers[-1])

    if is_hub:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        listener = socket.create_server(("", 0), family=family, dualstack_ipv6=both, backlog=1024)
        selector.register(listener, selectors.EVENT_READ)
        print(listener.getsockname()[1], flush=True)
    else:
        add(socket.create_connection((host, port), GONE_SECONDS), hub_name)
        peers[0].send(f"hello {me}")
        print("connected", flush=True)
    selector.register(0, selectors.EVENT_READ)

    text, alive, told_by_us, report = b"", True, False, None
    verdict, deadline, beaten = None, None, 0.0
    while verdict is None and (deadline is None or time.monotonic() < deadline):
        for key, _ in selector.select(BEAT_SECONDS / 4):
            if key.fd == 0:
                chunk = os.read(0, 65536)
                *lines, text = (text + chunk).split(b"\n")
                for line in lines:
                    if line == b"left":
                        for peer in peers:
                            peer.send("left")
                        return
                    report, told_by_us = line.decode(errors="replace"), True
                if not chunk:
                    alive = False
                    selector.unregister(0)
                    report = report or f"ended 1 {me} ended suddenly: killed, or out of memory"
            elif is_hub and key.data is None:
                add(listener.accept()[0], "")
            else:
                lines = key.data.receive()
                for line in lines or []:
                    what, _, rest = line.partition(" ")
                    if what == "hello":
                        key.data.name = rest
                    elif what == "ended" and key.data.name:
                        verdict = verdict or line
                key.data.left |= "left" in (lines or [])
                if lines is None:
                    selector.unregister(key.data.connection)
                    peers.remove(key.data)
                    if key.data.name and not key.data.left:
                        verdict = verdict or f"ended 1 {key.data.name} is gone"
            if report is not None and is_hub:
                verdict = verdict or report
        if report is not None and deadline is None:
            # The hub may have heard of another's end before ours.
            for peer in peers:
                peer.send(report)
            deadline = time.monotonic() + VERDICT_SECONDS
        now = time.monotonic()
        if now - beaten > BEAT_SECONDS:
            beaten = now
            for peer in peers:
                peer.send("beat")
        silent = [peer.name for peer in peers if peer.name and not peer.left and now - peer.heard > GONE_SECONDS]
        if silent:
            verdict = verdict or f"ended 1 {silent[0]} is gone"

    verdict = verdict or report
    if is_hub:
        listener.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                add(listener.accept()[0], "")  # connected, and not come to be heard
        for peer in peers:
            peer.send(verdict)
    _, code, line = verdict.split(" ", 2)
    if not (told_by_us and verdict == report):
        print(f"vidjax: error: {line}", file=sys.stderr, flush=True)
    if is_hub:
        _wait_for_their_end(peers)
    if alive:
        _end(code)


def _wait_for_their_end(peers: list[Peer]) -> None:
    # Process 0 ends last: JAX aborts the others when they lose it.
    end = time.monotonic() + END_SECONDS
    for peer in peers:
        peer.connection.settimeout(0.2)
        while time.monotonic() < end and not peer.is_closed():
            pass


def _end(code: str) -> None:
    """Has the process end itself, or kills it."""
    parent = os.getppid()
    with contextlib.suppress(OSError):
        print(code, flush=True)
    end = time.monotonic() + END_SECONDS
    while os.getppid() == parent:
        if time.monotonic() > end:
            os.kill(parent, signal.SIGKILL)
        time.sleep(0.1)


if __name__ == "__main__":
    watch(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
