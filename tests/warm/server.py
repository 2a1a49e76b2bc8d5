"""A server of processes: each is a fork of this one, in which everything is imported already.

A process that uses torch spends four seconds on imports and its end, and the tests start hundreds. A fork is
such a process behind its imports: it has an id, streams, folder, environment and signals of its own.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import NoReturn

IMPORTED = (
    "zskd.cli.main",
    "zskd.run.pipeline",
    "zskd.experiment.conduct",
    "zskd.teacher.opening",
    "matplotlib.figure",
    "sklearn.datasets",
    "torch._dynamo",  # what the first optimiser imports
)


def main(address: str) -> None:
    """Serve until standard input is closed."""
    for module in IMPORTED:
        importlib.import_module(module)
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    assert len(threads) == 1, f"threads do not survive a fork: {', '.join(threads)}"
    gc.freeze()  # what was imported is not searched for garbage, and stays shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        print("ready", flush=True)
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            client, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                supervise(client)
            client.close()


def supervise(client: socket.socket) -> None:
    """Run the command of a client in a further fork; kill it where the client is killed."""
    text, streams, _, _ = socket.recv_fds(client, 2**20, 3)
    arguments, folder, environment = json.loads(text)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    command = os.fork()
    if command == 0:
        client.close()
        become(arguments, folder, environment, streams)
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(command)
    while ended not in select.select([client, ended], [], [])[0]:
        if not (received := client.recv(1)):
            os.kill(command, signal.SIGKILL)
            break
        os.kill(command, received[0])
    code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        client.sendall(str(code).encode())
    os._exit(0)


def become(arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> NoReturn:
    """Turn this process into `python -m MODULE …` or `python -c CODE …`, and end with it."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    how, what, *rest = arguments
    sys.argv, sys.path[0] = [how, *rest], ""
    code = 1
    try:
        if how == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.modules["__main__"] = module = ModuleType("__main__")
            exec(what, vars(module))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)  # to take so large an interpreter apart takes a second


if __name__ == "__main__":
    main(sys.argv[1])
