"""The node's own process: hands its work to a server, which forks for it, and waits for the exit status.

Without a server, or with one that is broken, the node runs where it is. Imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
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
from typing import BinaryIO

from lofit.cluster.watchdog import VARIABLE as SNAKEMAKE

VARIABLE = "LOFIT_NODE_SERVER"
"""Folder for what the servers of a workflow say; the workflow sets it for its nodes if it wants servers."""
OWNER = "LOFIT_NODE_SERVER_OWNER"
"""Id of the process that servers end with; where it is not set, the Snakemake that the node belongs to."""
ON_A_MODEL = ("capture", "localize", "fit", "evaluate")
"""Kinds of nodes that run a model: forked from a server that has read it."""
DRAWING = ("select_best", "collect", "render")
"""What works on what others have computed: forked from a server that has imported the libraries."""
LENGTH = struct.Struct("!I")
STATUS = struct.Struct("!i")
READY = b"+"
ALONE = {
    "OMP_NUM_THREADS": "1",  # threads would not survive the fork, but their locks would
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow's allocator
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",  # models and data are local by now
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # a bar is watched by a thread
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # CUDA itself cannot be asked on both sides of a fork
}
"""Environment in which libraries start no thread when they are imported, and ask nobody."""
_IMPORTED_WITH = ("PYTHON", "HF_", "TRANSFORMERS_", "TORCH", "CUDA_", "OMP_", "MKL_", "OPENBLAS_", "MPL")
"""Beginnings of the names of variables that libraries read when they are imported."""


def run_in_server(arguments: Sequence[str]) -> int | None:
    """Run a node in a fork of the server of this workflow and model, which is started if there is none.

    Args:
        arguments: of the command line, from the verb on.

    Returns:
        The node's exit status; None if it is to run in this process, which stderr then says why unless the workflow
        wants no servers.
    """
    if not os.environ.get(VARIABLE) or not owner(os.environ) or not arguments:
        return None
    try:
        if verb(arguments) in ON_A_MODEL:
            model = arguments[2].partition("/")[0]
        elif verb(arguments) in DRAWING or os.environ.get("HF_HUB_OFFLINE") == "1":  # servers have no network
            model = ""
        else:
            return None
        with _connected(model) as server:
            return _ask(server, arguments)
    except (OSError, ValueError, LookupError) as error:
        print(f"node server: not used ({error}); this node runs in a process of its own", file=sys.stderr, flush=True)
        return None


def verb(arguments: Sequence[str]) -> str:
    """What a command line does: a kind of node, or another command."""
    return arguments[1] if arguments[0] == "node" and len(arguments) > 1 else arguments[0]


def owner(environment: Mapping[str, str]) -> str | None:
    """Id of the process that servers end with."""
    return environment.get(OWNER) or environment.get(SNAKEMAKE)


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
    """Name of the server of a model, or of the libraries alone if ``model`` is empty.

    It is another one for other code, another owner, and another environment, limits included, which its forks inherit;
    that of a model for another configuration too, which says where the model lies.

    Raises:
        OSError: this is no Linux.
    """
    code = Path(__file__).parents[1]
    stamps = sorted((str(file), file.stat().st_mtime_ns) for file in code.rglob("*.py"))
    read = sorted((name, value) for name, value in environment.items() if name.startswith(_IMPORTED_WITH))
    process = Path("/proc/self")
    umask = next(line for line in (process / "status").read_text().splitlines() if line.startswith("Umask"))
    limits = [(process / "limits").read_text(), umask, sorted(os.sched_getaffinity(0))]
    parts = [sys.executable, sys.path, stamps, read, limits, owner(environment)]
    if model:
        parts += [model, os.getcwd(), environment.get("LOFIT_CONFIG")]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def sweep() -> None:
    """Remove the sockets of servers that were killed."""
    with contextlib.suppress(OSError):
        folder = runtime_folder()
        with _only_one(folder):
            _sweep(folder)


def _sweep(folder: Path) -> None:
    """Within :func:`_only_one`, so that none is just starting; not by connecting, which keeps them from ending."""
    bound = Path("/proc/net/unix").read_text().splitlines()
    for address in folder.glob("*.sock"):
        if not any(line.endswith(f" {address}") for line in bound):
            address.unlink(missing_ok=True)


@contextlib.contextmanager
def _connected(model: str) -> Iterator[socket.socket]:
    """A connection to the server, whose owner is this user."""
    folder = runtime_folder()
    server = _connection(folder / f"{name_of(model, os.environ)}.sock")
    if not server:
        with _only_one(folder):
            server = _started(folder, model)
    with server:
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


def _connection(address: Path) -> socket.socket | None:
    """A connection to who listens there; None if nobody does."""
    server = socket.socket(socket.AF_UNIX)
    if server.connect_ex(str(address)):
        server.close()
        return None
    return server


def check_peer(peer: socket.socket) -> None:
    """Raise OSError unless the other end is a process of this user."""
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if user != os.getuid():
        raise OSError("the other end of the socket belongs to somebody else")


def _started(folder: Path, model: str) -> socket.socket:
    """A connection to the server, which is started unless another node has done so meanwhile; it outlives this process.

    Raises:
        OSError: it ended instead.
    """
    address = folder / f"{name_of(model, os.environ)}.sock"
    if server := _connection(address):
        return server
    said = Path(os.environ[VARIABLE])
    said.mkdir(parents=True, exist_ok=True)
    log = said / f"{model or 'libraries'}-{address.stem}.log"
    reading, writing = os.pipe()
    with open(reading, "rb") as ready, log.open("w") as errors:
        with open(writing, "wb") as says:
            if model:
                with _started(folder, "") as libraries:
                    check_peer(libraries)
                    _send(libraries, {"address": str(address), "model": model}, [0, says.fileno(), errors.fileno()])
            else:
                _sweep(folder)
                _start_libraries(address, says, errors.fileno())
        if ready.read(1) != READY or not (server := _connection(address)):
            raise OSError(f"it did not start, see {log}")
    return server


def _start_libraries(address: Path, says: BinaryIO, errors: int) -> None:
    """Start the server from which all others are forked."""
    command = [sys.executable, "-m", "lofit.cli.server", str(address)]
    subprocess.Popen(
        command, env=os.environ | ALONE, stdin=subprocess.DEVNULL, stdout=says, stderr=errors, start_new_session=True
    )


def _ask(server: socket.socket, arguments: Sequence[str]) -> int:
    """Send the node's work with the standard streams, and wait for its exit status.

    Raises:
        OSError: the server is gone, and the node with it.
    """
    _send(server, {"arguments": list(arguments)}, [0, 1, 2])
    status: int = STATUS.unpack(received(server, STATUS.size))[0]
    return status if status >= 0 else 128 - status


def _send(server: socket.socket, order: dict[str, object], streams: list[int]) -> None:
    message = json.dumps(order | {"folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    socket.send_fds(server, [LENGTH.pack(len(message))], streams)
    server.sendall(message)


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
