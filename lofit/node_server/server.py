"""The server: imports the libraries and reads the base model once, then forks for every node.

It has one thread, so that forking is safe. A child is a process of its own, with its own limits, streams and exit
status, and shares the base model's memory until it writes to it. The server ends with its Snakemake, when nobody asked
for a while, and when memory is short.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import psutil

from lofit.abandoned import VARIABLE as SNAKEMAKE
from lofit.node_server.client import LENGTH, READY, STATUS, check_peer, received

IDLE_SECONDS = 60.0
LEAST_BYTES = 10**9
"""Memory that the machine must have left; with less, a server without nodes gives its own back."""
PATIENCE = 10.0
"""Seconds that a client may take to say what it wants."""
_PR_SET_PDEATHSIG = 1


def load(model: str) -> None:
    """Import what nodes need, and read the model in the precision of the configuration."""
    from lofit.cli import DEFAULT, set_up_computing

    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # pyarrow's allocator would start one
    set_up_computing(1)
    import sklearn.decomposition
    import sklearn.linear_model  # noqa: F401

    import lofit.activations.node
    import lofit.evaluate.node
    import lofit.fit.node
    import lofit.localize.node  # noqa: F401
    from lofit.config import load_config
    from lofit.fit.session import preload
    from lofit.runs import RunTable

    table = RunTable(load_config(Path(os.environ.get("LOFIT_CONFIG", DEFAULT))))
    preload(table.model_dir(model), table.dtype)
    gc.collect()
    gc.freeze()  # what is there now is never collected, so that a child's collector does not write to its memory


class Server:
    """Waits for clients, forks for each, and tells it how the child ended."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._clients: dict[int, socket.socket] = {}
        """By process id of the child."""
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._watch(listening, self._accept)
        self._watch(self._woken, self._reap)
        with contextlib.suppress(AttributeError, OSError):  # without them it ends when it is idle
            self._watch(os.pidfd_open(int(os.environ[SNAKEMAKE])), self._end)

    def _watch(self, file: Any, call: Any) -> None:
        self._selector.register(file, selectors.EVENT_READ, call)

    def serve(self) -> None:
        """Serve until it is time to end."""
        while events := self._selector.select(IDLE_SECONDS) or self._clients:
            for key, _ in events if isinstance(events, list) else ():
                key.data()
            if not self._clients and psutil.virtual_memory().available < LEAST_BYTES:
                return

    def _end(self) -> NoReturn:
        """Snakemake is gone: end all that works for it."""
        for child in self._clients:
            os.kill(child, signal.SIGKILL)
        sys.exit()

    def _accept(self) -> None:
        client, _ = self._listening.accept()
        files: list[int] = []
        try:
            check_peer(client)
            client.settimeout(PATIENCE)
            header, files, _, _ = socket.recv_fds(client, LENGTH.size, 3)
            order = json.loads(received(client, LENGTH.unpack(header)[0]))
            client.settimeout(None)
        except Exception as error:  # whoever it is: it computes on its own, and the others are served
            print(f"refused: {error!r}", file=sys.stderr, flush=True)
            client.close()
        else:
            server = os.getpid()
            child = os.fork()
            if not child:
                self._become(order, files, server)
            self._clients[child] = client
            self._watch(client, lambda: self._leave(child, client))
        finally:
            for file in files:
                os.close(file)

    def _leave(self, child: int, client: socket.socket) -> None:
        """A client is gone: so is what it asked for."""
        self._selector.unregister(client)
        os.kill(child, signal.SIGKILL)

    def _reap(self) -> None:
        os.read(self._woken, 4096)
        while self._clients:
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            client = self._clients.pop(child)
            with contextlib.suppress(KeyError):
                self._selector.unregister(client)
            with client, contextlib.suppress(OSError):
                client.sendall(STATUS.pack(os.waitstatus_to_exitcode(status)))

    def _become(self, order: dict[str, Any], files: list[int], server: int) -> NoReturn:
        """In the child: be the node, with the client's streams, folder and environment."""
        status = 1
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != server:
                os._exit(status)  # it was killed before it could be followed
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            for end in (self._listening, *self._clients.values()):
                end.close()
            for stream, file in enumerate(files):
                os.dup2(file, stream)
            os.environ.clear()
            os.environ.update(order["environment"])
            os.chdir(order["folder"])
            sys.argv = ["lofit", *order["arguments"]]
            from lofit.cli import main

            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1 if end.code else 0
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)


def main() -> None:
    """``python -m lofit.node_server.server ADDRESS MODEL``: say on stdout that clients can connect, load, and serve."""
    address, model = Path(sys.argv[1]), sys.argv[2]
    with socket.socket(socket.AF_UNIX) as listening:
        address.unlink(missing_ok=True)  # of one that was killed; the client that started this holds the lock
        listening.bind(str(address))
        try:
            listening.listen(1024)
            os.write(1, READY)
            os.dup2(2, 1)
            load(model)
            if (threads := psutil.Process().num_threads()) > 1:  # a lock that one of them holds would stay locked
                sys.exit(f"{threads} threads after loading; forking would not be safe")
            Server(listening).serve()
        finally:
            address.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
