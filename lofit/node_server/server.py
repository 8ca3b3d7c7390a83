"""Node servers: one imports the libraries and forks into a server for each model, which loads the model once.

Nodes are forks of these servers. A server has a single thread and has not used CUDA, so that forking is safe. A node is
a separate process with its own limits, streams and exit status; it shares the memory of the libraries and the base
model until it writes to it. A server ends with the process that owns it, after a time without requests, and when the
machine runs short of memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import psutil

from lofit.node_server import client
from lofit.node_server.client import LENGTH, READY, STATUS, check_peer, owner, received

IDLE_SECONDS = 60.0
LEAST_BYTES = 10**9
"""Bytes of memory that the machine must have available; with less, a server without children ends."""
PATIENCE = 10.0
"""Seconds that a client may take to send its request."""
LIBRARIES, MODEL = "lofit-libraries", "lofit-model"
"""Process names of the servers in `ps -e` and `top`, cut to 15 characters; nodes are `lofit` and their verb."""
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_LIBC = ctypes.CDLL(None)
_CUDA_ERROR_NOT_INITIALIZED = 3

_LEARNING = ["lofit.nodes.select_best", "lofit.nodes.localize", "lofit.nodes.capture", "sklearn.linear_model"]
_SCORING = ["lofit.nodes.evaluate"]
_DRAWING = [f"lofit.report.{name}" for name in ("parts", "page", "experiments", "transfer", "overlap")]
_IMPORTS = {
    **dict.fromkeys(client.MODEL_KINDS, _LEARNING),
    "evaluate": _SCORING,
    **dict.fromkeys([*client.REPORT_COMMANDS, "train"], _DRAWING),
}
"""Modules that a server imports before its first fork for a verb; for other verbs the fork imports what it needs."""


def check_forkable() -> None:
    """Check that this process can be forked safely.

    Raises:
        OSError: there is a second thread, whose locks would stay locked in the fork, or CUDA is initialised, which
            makes it unusable in the fork.
    """
    if (threads := psutil.Process().num_threads()) > 1:
        raise OSError(f"{threads} threads; forking would not be safe")
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    if driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) != _CUDA_ERROR_NOT_INITIALIZED:
        raise OSError("CUDA is in use; forks could not use it")


class Server:
    """Waits for clients, forks a child for each, and sends the client the exit status of the child."""

    def __init__(self, listening: socket.socket, main: Callable[[], None], preload: Callable[[str], None]) -> None:
        self._listening, self._main, self._preload = listening, main, preload
        self._children: dict[int, socket.socket | Path] = {}
        """Process id to the client's connection, or to the address of the child if that is a server."""
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._watch(listening, self._accept)
        self._watch(self._woken, self._reap)
        try:
            self._watch(os.pidfd_open(int(owner(os.environ) or 0)), self._end)
        except ProcessLookupError:  # it is gone already
            self._end()
        except (AttributeError, OSError):
            pass  # no pidfd in this kernel or Python: the server ends when it is idle

    def _watch(self, file: Any, call: Any) -> None:
        self._selector.register(file, selectors.EVENT_READ, call)

    def serve(self) -> None:
        """Serve until the server has been idle for ``IDLE_SECONDS``, or memory is short and no child is running."""
        while events := self._selector.select(IDLE_SECONDS) or self._children:
            for key, _ in events if isinstance(events, list) else ():
                key.data()
            if not self._children and psutil.virtual_memory().available < LEAST_BYTES:
                return

    def _end(self) -> NoReturn:
        """Kill all children and exit, because the owner has ended."""
        for child in self._children:
            os.kill(child, signal.SIGKILL)
        for child, place in self._children.items():
            os.waitpid(child, 0)
            if isinstance(place, Path):  # a server cannot remove its socket when it is killed
                place.unlink(missing_ok=True)
        sys.exit()

    def _accept(self) -> None:
        connection, _ = self._listening.accept()
        files: list[int] = []
        try:
            check_peer(connection)
            connection.settimeout(PATIENCE)
            header, files, _, _ = socket.recv_fds(connection, LENGTH.size, 3)
            order = json.loads(received(connection, LENGTH.unpack(header)[0]))
            connection.settimeout(None)
            for module in _IMPORTS.get(client.verb(order["arguments"]), []) if "arguments" in order else _LEARNING:
                importlib.import_module(module)
            check_forkable()
            gc.collect()
            gc.freeze()  # so that the garbage collector of a child does not write to, and thus copy, shared memory
        except Exception as error:  # this client runs its node itself; the others are still served
            print(f"refused: {error!r}", file=sys.stderr, flush=True)
            connection.close()
        else:
            server = os.getpid()
            child = os.fork()
            if not child:
                connection.close()
                self._become(order, files, server)
            if "arguments" in order:
                self._children[child] = connection
                self._watch(connection, lambda: self._leave(child, connection))
            else:
                self._children[child] = Path(order["address"])
                connection.close()
        finally:
            for file in files:
                os.close(file)

    def _leave(self, child: int, connection: socket.socket) -> None:
        """Kill the node of a client that has disconnected."""
        if child not in self._children:
            return  # it ended at the same moment
        self._selector.unregister(connection)
        os.kill(child, signal.SIGKILL)

    def _reap(self) -> None:
        os.read(self._woken, 4096)
        while self._children:
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            connection = self._children.pop(child)
            if isinstance(connection, Path):  # a server, which may have been killed and left its socket
                if connection not in self._children.values():  # and no other has been started at its address
                    connection.unlink(missing_ok=True)
                continue
            with contextlib.suppress(KeyError):
                self._selector.unregister(connection)
            with connection, contextlib.suppress(OSError):
                connection.sendall(STATUS.pack(os.waitstatus_to_exitcode(status)))

    def _become(self, order: dict[str, Any], files: list[int], server: int) -> NoReturn:
        """Run the node, or the server of a model, in the child, with the client's streams, folder and environment."""
        status = 1
        try:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            _LIBC.prctl(_PR_SET_NAME, f"lofit {client.verb(order.get('arguments', ['']))}".encode())
            if os.getppid() != server:
                os._exit(status)  # the server was killed before PR_SET_PDEATHSIG took effect
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            for end in (self._listening, *self._children.values()):
                if isinstance(end, socket.socket):
                    end.close()
            for stream, file in enumerate(files):
                os.dup2(file, stream)
            os.environ.clear()
            os.environ.update(order["environment"])
            os.chdir(order["folder"])
            if "arguments" in order:
                sys.argv = ["lofit", *order["arguments"]]
                self._main()
            else:
                os.environ.update(client.SERVER_ENVIRONMENT)
                serve(Path(order["address"]), self._main, self._preload, order["model"])
                status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1 if end.code else 0
        except Exception as error:  # from the server of a model; a node reports its own errors
            print(f"{error!r}", file=sys.stderr)
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)


def serve(address: Path, main: Callable[[], None], preload: Callable[[str], None], model: str = "") -> None:
    """Listen on a socket, report readiness on stdout, load the model if there is one, and serve clients.

    Args:
        address: path of the socket.
        main: runs the command line in ``sys.argv``.
        preload: loads a model of the configuration into the memory of this process.
        model: name of the model. Empty: the server has only the libraries; it serves commands that run no model, and
            forks into the servers of models.
    """
    _LIBC.prctl(_PR_SET_NAME, (MODEL if model else LIBRARIES).encode())
    with socket.socket(socket.AF_UNIX) as listening:
        address.unlink(missing_ok=True)  # left by a killed server; the client that started this one holds the lock
        listening.bind(str(address))
        try:
            listening.listen(1024)
            os.write(1, READY)
            os.dup2(2, 1)
            if model:
                try:
                    preload(model)
                except Exception as error:  # each node then loads the model itself and reports what is wrong
                    print(f"{model} was not read: {error!r}", file=sys.stderr, flush=True)
            Server(listening, main, preload).serve()
        finally:
            address.unlink(missing_ok=True)
