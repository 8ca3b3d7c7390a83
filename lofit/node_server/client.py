"""The node's own process: hands its work to a server, which forks for it, and waits for the exit status.

Without a server, or with one that is broken, the node runs where it is. Imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lofit.abandoned import VARIABLE as SNAKEMAKE

VARIABLE = "LOFIT_NODE_SERVER"
"""Folder for what the servers of a workflow say; the workflow sets it for its nodes if it wants servers."""
VERBS = ("activations", "localize", "fit", "evaluate")
"""What is run on a model."""
LENGTH = struct.Struct("!I")
STATUS = struct.Struct("!i")
READY = b"+"
_IMPORTED_WITH = ("PYTHON", "LOFIT_", "HF_", "TRANSFORMERS_", "TORCH", "CUDA_", "OMP_", "MKL_", "OPENBLAS_")
"""Beginnings of the names of variables that libraries read when they are imported."""


def run_in_server(arguments: Sequence[str]) -> int | None:
    """Run a node in a fork of the server of this workflow and model, which is started if there is none.

    Args:
        arguments: of the command line, from the verb on.

    Returns:
        The node's exit status; None if it is to run in this process, which stderr then says why unless the workflow
        wants no servers.
    """
    if not os.environ.get(VARIABLE) or not os.environ.get(SNAKEMAKE) or arguments[:1] not in [[v] for v in VERBS]:
        return None
    try:
        model = arguments[list(arguments).index("--run") + 1].partition("/")[0]
        with _connected(model) as server:
            return _ask(server, arguments)
    except (OSError, ValueError, LookupError) as error:
        print(f"node server: not used ({error}); this node runs in a process of its own", file=sys.stderr, flush=True)
        return None


def runtime_folder() -> Path:
    """Where sockets are: a folder of this user alone, on this machine.

    Raises:
        OSError: somebody else has put one there.
    """
    folder = Path(tempfile.gettempdir()) / f"lofit-nodes-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != 0o700:
        raise OSError(f"{folder} is not a folder of this user alone")
    return folder


def name_of(model: str, environment: Mapping[str, str]) -> str:
    """Name of the server of a model: another one for other code, another environment and another Snakemake."""
    code = Path(__file__).parents[1]
    stamps = sorted((str(file), file.stat().st_mtime_ns) for file in code.rglob("*.py"))
    read = sorted((name, value) for name, value in environment.items() if name.startswith(_IMPORTED_WITH))
    return hashlib.sha256(repr((model, sys.executable, sys.path, stamps, read)).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _connected(model: str) -> Iterator[socket.socket]:
    """A connection to the server, whose owner is this user."""
    folder, name = runtime_folder(), name_of(model, os.environ)
    address = folder / f"{name}.sock"
    with socket.socket(socket.AF_UNIX) as server:
        if server.connect_ex(str(address)):
            with _only_one(folder):
                if server.connect_ex(str(address)):
                    _start(address, model)
                    server.connect(str(address))
        check_peer(server)
        yield server


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Within this, no other node starts a server."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def check_peer(peer: socket.socket) -> None:
    """Raise OSError unless the other end is a process of this user."""
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if user != os.getuid():
        raise OSError("the other end of the socket belongs to somebody else")


def _start(address: Path, model: str) -> None:
    """Start the server and wait until it can be connected to; it outlives this process.

    Raises:
        OSError: it ended instead.
    """
    for other in address.parent.glob("*.sock"):  # of servers that were killed
        with socket.socket(socket.AF_UNIX) as dead:
            if dead.connect_ex(str(other)) == errno.ECONNREFUSED:
                other.unlink(missing_ok=True)
    said = Path(os.environ[VARIABLE])
    said.mkdir(parents=True, exist_ok=True)
    log = said / f"{model}-{address.stem}.log"
    command = [sys.executable, "-m", "lofit.node_server.server", str(address), model]
    with log.open("w") as file:
        started = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file, start_new_session=True
        )
    assert started.stdout
    with started.stdout:
        if started.stdout.read(1) != READY:
            raise OSError(f"it did not start, see {log}")


def _ask(server: socket.socket, arguments: Sequence[str]) -> int:
    """Send the node's work with the standard streams, and wait for its exit status.

    Raises:
        OSError: the server is gone, and the node with it.
    """
    order = {"arguments": list(arguments), "folder": str(Path.cwd()), "environment": dict(os.environ)}
    message = json.dumps(order).encode()
    socket.send_fds(server, [LENGTH.pack(len(message))], [0, 1, 2])
    server.sendall(message)
    status: int = STATUS.unpack(received(server, STATUS.size))[0]
    return status if status >= 0 else 128 - status


def received(peer: socket.socket, size: int) -> bytes:
    """So many bytes of the other end.

    Raises:
        OSError: it ended before.
    """
    parts = b""
    while len(parts) < size:
        if not (part := peer.recv(size - len(parts))):
            raise OSError("the other end is gone")
        parts += part
    return parts
