"""The watch beside a process, with another played by the test: no JAX, no waiting."""

import socket
import subprocess
import sys

import pytest

from vidjax.parallel import watch

PARENT = """
import subprocess, sys
beside = subprocess.Popen([sys.executable, *sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
print(beside.stdout.readline(), end="", flush=True)
for line in sys.stdin:
    if line == "wait\\n":
        sys.exit(int(beside.stdout.readline()))
    beside.stdin.write(line)
    beside.stdin.flush()
    sys.exit(beside.wait())
"""


@pytest.fixture
def start():
    """A process with a watch beside it."""
    started = []

    def begin(me, port):
        command = [sys.executable, "-c", PARENT, watch.__file__, me, "localhost", str(port), "process 0 of 2 (a:1)"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, text=True, **pipes))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def say(process, line):
    process.stdin.write(line + "\n")
    process.stdin.flush()


def hub_and_member(start):
    hub = start("process 0 of 2 (a)", 0)
    member = socket.create_connection(("localhost", int(hub.stdout.readline())), 20)
    member.sendall(b"hello process 1 of 2 (b)\n")
    member.settimeout(60)
    return hub, member


def last_line(member):
    """The verdict, after which the hub waits for the other side to hang up."""
    text = b""
    while b"ended" not in text or not text.endswith(b"\n"):
        text += member.recv(4096)
    member.close()
    return text.decode().splitlines()[-1]


def test_hub_names_who_is_lost(start):
    """A machine that loses its power would leave the others waiting in a collective for ever."""
    hub, member = hub_and_member(start)
    say(hub, "wait")
    member.close()
    _, said = hub.communicate(timeout=60)
    assert (hub.returncode, said) == (1, "vidjax: error: process 1 of 2 (b) is gone\n")


def test_strangers_do_not_matter(start):
    """Somebody who tries all ports of the machine would end the run."""
    hub, member = hub_and_member(start)
    with socket.create_connection(member.getpeername()[:2], 20) as stranger:
        stranger.sendall(b"ended 1 all of you\nGET / HTTP/1.1\n")
    member.sendall(b"left\n")
    member.close()
    say(hub, "left")
    assert hub.communicate(timeout=60)[1] == ""
    assert hub.returncode == 0


def test_hub_passes_the_first_end_on(start):
    """The others must tell the cause, not what followed from it; and end with its code."""
    hub, member = hub_and_member(start)
    say(hub, "wait")
    member.sendall(b"ended 2 process 1 of 2 (b) ended: no such file\n")
    assert last_line(member) == "ended 2 process 1 of 2 (b) ended: no such file"
    _, said = hub.communicate(timeout=60)
    assert (hub.returncode, said) == (2, "vidjax: error: process 1 of 2 (b) ended: no such file\n")


def test_killed_process_has_a_last_word(start):
    """Out of memory ends a process without a line of its own."""
    hub, member = hub_and_member(start)
    hub.kill()
    assert last_line(member) == "ended 1 process 0 of 2 (a) ended suddenly: killed, or out of memory"


def test_member_names_the_hub(start):
    """Process 0 is the coordinator: nobody else could tell that it is gone."""
    with socket.create_server(("localhost", 0)) as server:
        member = start("process 1 of 2 (b)", server.getsockname()[1])
        connection, _ = server.accept()
        assert connection.recv(4096).startswith(b"hello process 1 of 2 (b)")
        say(member, "wait")
        connection.close()
        _, said = member.communicate(timeout=60)
    assert (member.returncode, said) == (1, "vidjax: error: process 0 of 2 (a:1) is gone\n")


def test_parting_is_no_alarm(start):
    """A run that is done would end with an error."""
    hub, member = hub_and_member(start)
    member.sendall(b"left\n")
    member.close()
    say(hub, "left")
    _, said = hub.communicate(timeout=60)
    assert (hub.returncode, said) == (0, "")
