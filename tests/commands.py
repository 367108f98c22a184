"""`resight` commands as processes of their own, forked from one that has loaded the code.

Loading the libraries takes longer than most commands do. So each process of pytest has one that
loads them once and forks for every command: a command has its own environment, streams and exit
code as if it had been typed. That typing it works as well is what `tests/test_docs.py` shows, and
the tests that start a service.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import NoReturn

RESIGHT = Path(sys.executable).with_name("resight")
REPOSITORY = Path(__file__).resolve().parent.parent
TIMEOUT_S = 120.0
_LOADED = (
    "faiss",
    "openvino",
    "rich.progress",
    "service.cli.commands",
    "service.runtime",
    "service.worker",
)


def clean_environment() -> dict[str, str]:
    """This process's, without any setting of Resight."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RESIGHT_")}


def resight(
    *arguments: object, environment: Mapping[str, str], typed: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, with `environment` added to the clean one.

    Raises:
        subprocess.TimeoutExpired: it took longer than two minutes, and was killed.
    """
    words = [str(argument) for argument in arguments]
    wanted = json.dumps({"words": words, "environment": clean_environment() | dict(environment)})
    with TemporaryFile("w+") as into, TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        into.write(typed)
        into.seek(0)
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(TIMEOUT_S)
            asking.connect(_parent())
            socket.send_fds(asking, [b"!"], [into.fileno(), out.fileno(), err.fileno()])
            asking.sendall(f"{wanted}\n".encode())
            answers = asking.makefile()
            pid = int(answers.readline())
            try:
                code = int(answers.readline())
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(words, TIMEOUT_S) from None
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, code, out.read(), err.read())


@cache
def _parent() -> str:
    """The address of the process that forks, which ends with this one."""
    folder = TemporaryDirectory(prefix="resight-commands-")
    address = str(Path(folder.name) / "socket")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.commands", address],
        cwd=REPOSITORY,
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

    def end() -> None:
        process.communicate()
        folder.cleanup()

    atexit.register(end)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n", "the process that forks commands did not start"
    return address


# ------------------------------------------------------------ in the process that forks


def _fork_for_all(address: str) -> None:
    from models.threads import configure_threads

    configure_threads()
    for name in _LOADED:
        import_module(name)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        # Nobody asks how a process for one command ended: it has said so to whoever wanted it.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while listening in select.select([listening, sys.stdin], [], [])[0]:
            asking, _ = listening.accept()
            with asking:
                if os.fork() == 0:
                    listening.close()
                    _run_one(asking)


def _run_one(asking: socket.socket) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(asking, 1, 3)
    wanted = json.loads(asking.makefile().readline())
    pid = os.fork()
    if pid == 0:
        asking.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(wanted["environment"])
        sys.argv = ["resight", *wanted["words"]]
        from service.cli import main

        main()
    asking.sendall(f"{pid}\n".encode())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    asking.sendall(f"{code}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    _fork_for_all(sys.argv[1])
