"""Client of the node servers: send the command of a node to a server, which forks to run it, and wait for its status.

If no server can be used, the node runs in its own process. Only the standard library is imported, directly or through
other modules of this package.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from lofit.cluster.watchdog import VARIABLE as SNAKEMAKE
from lofit.files import private_folder

VARIABLE = "LOFIT_NODE_SERVER"
"""Environment variable: folder for the logs of the servers. The workflow sets it for its nodes if servers are on."""
OWNER = "LOFIT_NODE_SERVER_OWNER"
"""Environment variable: id of the process with which the servers end; default: the Snakemake of the node."""
REUSE = "LOFIT_REUSE"
"""Environment variable: the stores that nodes may be taken from (`reuse`), separated as in PATH."""
ENTRY = "entry.json"
"""File of a finished node that says what it is, in stores and in results; see lofit/plan/store.py."""
MODEL_KINDS = ("effects", "plant", "capture", "localize", "fit", "select_best", "evaluate")
"""Kinds of nodes that run a model; they are forked from a server that has loaded it."""
REPORT_COMMANDS = ("collect", "render")
"""Commands that work on results of other nodes; they are forked from a server that has imported the libraries."""
LENGTH = struct.Struct("!I")
STATUS = struct.Struct("!i")
READY = b"+"
SERVER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # threads would not survive the fork, but their locks would
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow's allocator
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",  # models and data are local by now
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # a progress bar starts a monitor thread
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # CUDA itself cannot be queried both before and after a fork
}
"""Environment of the servers, in which libraries start no threads on import and do not use the network."""
_IMPORTED_WITH = ("PYTHON", "HF_", "TRANSFORMERS_", "TORCH", "CUDA_", "OMP_", "MKL_", "OPENBLAS_", "MPL")
"""Prefixes of the environment variables that libraries read on import."""


def run_in_server(arguments: Sequence[str]) -> int | None:
    """Run a node in a fork of the server for this workflow and model; start the server if it is not running.

    Args:
        arguments: command-line arguments without the program name.

    Returns:
        The exit status of the node. None if the node has to run in this process; if servers are on but cannot be used,
        the reason is printed to stderr.
    """
    if not os.environ.get(VARIABLE) or not owner(os.environ) or not arguments:
        return None
    try:
        runs_model = verb(arguments) in MODEL_KINDS and len(arguments) > 2
        stored = runs_model and _is_stored(arguments[2])
        if runs_model and not stored:
            model = arguments[2].partition("/")[0]
        elif stored or verb(arguments) in REPORT_COMMANDS or os.environ.get("HF_HUB_OFFLINE") == "1":
            # servers have no network
            model = ""
        else:
            return None
        with _connected(model) as server:
            return _ask(server, arguments)
    except (OSError, ValueError, LookupError) as error:
        print(f"node server: not used ({error}); this node runs in its own process", file=sys.stderr, flush=True)
        sweep()  # a killed server cannot remove its socket, and Snakemake may be killed before another one starts
        return None


def _is_stored(id: str) -> bool:
    """Return whether a store has a node of this id; it will then be taken, most likely, and needs no model."""
    stores = filter(None, os.environ.get(REUSE, "").split(os.pathsep))
    return any(any(Path(store).glob(f"*/{glob.escape(id)}/{ENTRY}")) for store in stores)


def verb(arguments: Sequence[str]) -> str:
    """Return what a command line runs: the kind of a node, or the name of another command."""
    return arguments[1] if arguments[0] == "node" and len(arguments) > 1 else arguments[0]


def owner(environment: Mapping[str, str]) -> str | None:
    """Return the id of the process with which the servers end; None if there is none."""
    return environment.get(OWNER) or environment.get(SNAKEMAKE)


def runtime_folder() -> Path:
    """Return the folder of the sockets.

    Raises:
        OSError: see :func:`lofit.files.private_folder`.
    """
    return private_folder("lofit-nodes")


def name_of(model: str, environment: Mapping[str, str]) -> str:
    """Return the name of the server of a model, or of the server with the libraries only if ``model`` is empty.

    The name is a hash of everything that forks inherit: the code, the owner, the environment variables that libraries
    read, and resource limits. For a model it also depends on the configuration, which says where the model is.

    Raises:
        OSError: the operating system is not Linux.
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
            remove_unbound(folder)


def remove_unbound(folder: Path) -> None:
    """Remove the sockets of a folder that no process is bound to: those of killed servers.

    The caller holds :func:`_only_one`, so that no server is just starting. The check does not connect to the sockets,
    since a connection would keep an idle server running.
    """
    bound = Path("/proc/net/unix").read_text().splitlines()
    for address in folder.glob("*.sock"):
        if not any(line.endswith(f" {address}") for line in bound):
            address.unlink(missing_ok=True)


@contextlib.contextmanager
def _connected(model: str) -> Iterator[socket.socket]:
    """Connect to the server, starting it if needed, and check that it belongs to this user."""
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
    """Hold a lock within which no other node starts a server."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _connection(address: Path) -> socket.socket | None:
    """Return a connection to the process that listens on ``address``; None if there is none."""
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
    """Start the server unless another node has started it meanwhile, and return a connection to it.

    The server outlives this process.

    Raises:
        OSError: the server ended instead of starting.
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
                remove_unbound(folder)
                _start_libraries(address, says, errors.fileno())
        if ready.read(1) != READY or not (server := _connection(address)):
            raise OSError(f"it did not start, see {log}")
    return server


def _start_libraries(address: Path, says: BinaryIO, errors: int) -> None:
    """Start the server that has only the libraries, from which the servers of models are forked."""
    command = [sys.executable, "-P", "-m", "lofit.cli.server", str(address)]
    subprocess.Popen(
        command,
        env=os.environ | SERVER_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=says,
        stderr=errors,
        start_new_session=True,
    )


def _ask(server: socket.socket, arguments: Sequence[str]) -> int:
    """Send the command of the node with this process's standard streams, and wait for its exit status.

    Raises:
        OSError: the server ended, and the node with it.
    """
    _send(server, {"arguments": list(arguments)}, [0, 1, 2])
    status: int = STATUS.unpack(received(server, STATUS.size))[0]
    if status < 0:
        print(f"error: {killed_by(-status)}", file=sys.stderr, flush=True)
    return status if status >= 0 else 128 - status


def killed_by(number: int) -> str:
    """What to say of a process that a signal ended."""
    reason = ", as when memory runs out" if number == signal.SIGKILL else ""
    return f"killed by {signal.Signals(number).name}{reason}"


def _send(server: socket.socket, order: dict[str, object], streams: list[int]) -> None:
    message = json.dumps(order | {"folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    socket.send_fds(server, [LENGTH.pack(len(message))], streams)
    server.sendall(message)


def received(peer: socket.socket, size: int) -> bytes:
    """Receive exactly ``size`` bytes.

    Raises:
        OSError: the connection was closed before.
    """
    parts = b""
    while len(parts) < size:
        if not (part := peer.recv(size - len(parts))):
            raise OSError("the other end is gone")
        parts += part
    return parts
