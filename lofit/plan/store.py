"""Stores: folders of finished nodes, laid out like a folder of results, that travel between machines.

Beside the files of every node but a base model is ``entry.json`` (:class:`Entry`), written last: what the node is, what
it was computed from, and a checksum of every file. So a folder of results is a store as well. Nothing here depends on
file times, and what a store says is checked before it is used: it may be damaged, or hostile.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from lofit import __version__
from lofit.config.results import snapshot_path, write_snapshot
from lofit.errors import StoreError
from lofit.files import atomic_path, only_writer, read_json, sha256_of, short_hash, write_json
from lofit.node_server.client import ENTRY
from lofit.plan.kinds import EVALUATE, FETCH, KINDS, PREPARE, NodeKind
from lofit.plan.nodes import Node
from lofit.plan.table import RunTable
from lofit.spec.base import Form, first_problem

STORED = {kind.name: kind for kind in KINDS if kind is not FETCH}
"""Kinds of nodes that stores hold. A base model is large, and its source says where to get it."""
_REPORTS = {kind.files[-1] for kind in KINDS if kind not in (FETCH, PREPARE)}
_OF_THIS_MACHINE = ("resolved_path", "converted_with", "config_sha256")
"""Keys of a model's ``source.json`` that do not tell which model it is."""
_ADAPTER, _IN_ADAPTER = "adapter", r"adapter/\w[\w.-]{0,199}\.(json|safetensors|md)"
"""The only folder that a node writes, and the files in it that travel."""
Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Entry(Form):
    """What ``entry.json`` says of a node."""

    kind: str
    id: str
    identity: dict[str, Any]
    triggers: Checksum = Field(description="of what else makes the node run again")
    inputs: dict[str, Checksum] = Field(description="of what the node read, whose contents its identity does not tell")
    files: dict[str, Checksum] = Field(description="of its files, by path below its folder")
    status: Literal["ok", "failed"]
    lofit: str = Field(description="version that computed it")
    taken_from: str | None = Field(default=None, description="the store that it was taken from; null: computed here")

    def agrees(self, other: Entry) -> bool:
        """Return whether another entry is of the same node, computed by the same code from the same inputs."""
        return (self.identity, self.triggers, self.inputs) == (other.identity, other.triggers, other.inputs)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _content(path: Path) -> Any:
    """What a node reads in one of its inputs; reports are left out, since they hold seconds."""
    if path.name == FETCH.files[-1]:
        return {key: value for key, value in read_json(path).items() if key not in _OF_THIS_MACHINE}
    if path.is_dir():
        return {
            file.name: sha256_of(file) for file in sorted(path.iterdir()) if file.suffix in (".json", ".safetensors")
        }
    return None if path.name in _REPORTS else sha256_of(path)


def _inputs(table: RunTable, kind: NodeKind, node: Node) -> dict[str, str]:
    """Checksums of a node's inputs, of those that are there."""
    found = {what: paths for what, paths in kind.inputs(table, node).items() if all(path.exists() for path in paths)}
    read = sha256_of if kind is PREPARE else _content
    return {what: _digest([read(path) for path in paths]) for what, paths in found.items()}


def _triggers(table: RunTable, kind: NodeKind, node: Node) -> str:
    return _digest(kind.triggers(table, node))


@contextlib.contextmanager
def recorded(table: RunTable, kind: NodeKind, node: Node) -> Iterator[None]:
    """Remove the entry of a node that the block computes, and write it anew when the block has succeeded."""
    if kind is not FETCH:
        (table.folder(node) / ENTRY).unlink(missing_ok=True)
    yield
    if kind is not FETCH:
        record(table, kind, node)


def record(table: RunTable, kind: NodeKind, node: Node) -> None:
    """Write the entry of a node that was computed."""
    folder, files = table.folder(node), []
    for top in (folder / name for name in (*kind.files, "run.json")):
        files += [file for file in sorted(top.iterdir()) if file.name[0] != "."] if top.is_dir() else [top]
    entry = Entry(
        kind=kind.name,
        id=node.id,
        identity=node.identity,
        triggers=_triggers(table, kind, node),
        inputs=_inputs(table, kind, node),
        files={file.relative_to(folder).as_posix(): sha256_of(file) for file in files if file.is_file()},
        status=kind.read_report(table, node).get("status", "ok"),
        lofit=__version__,
    )
    write_json(folder / ENTRY, entry.model_dump(mode="json"))


def _place(root: Path, kind: NodeKind, id: str) -> Path:
    return root / kind.node.FOLDER[1] / id


def _inside(root: Path, path: Path) -> Path:
    """Return a path below a store. Raises StoreError if it is a link or behind one, and may be anywhere."""
    if os.path.realpath(path) != os.path.join(os.path.realpath(root), path.relative_to(root)):
        raise StoreError(f"{path.relative_to(root)} is a link, or behind one, and links are not followed")
    return path


def _load(root: Path, folder: Path) -> Entry:
    """Read the entry of a folder of a store.

    Raises:
        StoreError: the entry is malformed, of another folder or incomplete, names a file that its kind does not write,
            or its id does not belong to its identity.
    """
    try:
        entry = Entry.model_validate(read_json(_inside(root, folder / ENTRY), StoreError))
    except ValidationError as error:
        raise StoreError(f"{ENTRY} is malformed ({first_problem(error)})") from None
    kind = STORED.get(entry.kind)
    if not kind or folder != _place(root, kind, entry.id):
        raise StoreError(f"{ENTRY} is of another node, {entry.kind} {entry.id}")
    single = {name for name in (*kind.files, "run.json") if name != _ADAPTER}
    for name in entry.files:
        if name not in single and not (_ADAPTER in kind.files and re.fullmatch(_IN_ADAPTER, name, re.ASCII)):
            raise StoreError(f"{name} is not a file that such a node writes")
    tops = {name.partition("/")[0] for name in entry.files}
    if lacking := [name for name in kind.files if name not in tops and (entry.status == "ok" or name != _ADAPTER)]:
        raise StoreError(f"{lacking[0]} is missing")
    hashed: Any = entry.identity
    within = ""
    if kind is EVALUATE:  # whose id holds that of its fit
        hashed, within = [hashed.get("data"), hashed.get("backend")], f"-{short_hash(hashed.get('fit'))}/eval/"
    if not entry.id.endswith(f"-{short_hash(hashed)}") or within not in entry.id:
        raise StoreError("its id does not belong to its identity")
    return entry


def sound(root: Path, folder: Path) -> Entry:
    """Read the entry of a folder of a store, and compare all its files with their checksums.

    Raises:
        StoreError: see :func:`_load`; or a file is missing, a link, unreadable, or was altered.
    """
    try:
        entry = _load(root, folder)
        for name, checksum in entry.files.items():
            if sha256_of(_inside(root, folder / name)) != checksum:
                raise StoreError(f"{name} was altered")
    except OSError as error:
        raise StoreError(f"{error.filename} cannot be read ({error.strerror})") from None
    return entry


def _copy(root: Path, source: Path, target: Path, entry: Entry) -> None:
    """Copy a node of the store ``root`` into its folder elsewhere, its report and then its entry last.

    Files are copied, not linked: their times are to be those of now, and what is done to one must not reach the other.

    Raises:
        StoreError: a file was altered since the node was found sound; what was copied has no entry, and is no node.
    """
    with only_writer(target):
        (target / ENTRY).unlink(missing_ok=True)
        for top in ("run.json", *STORED[entry.kind].files):
            names = [name for name in entry.files if name.partition("/")[0] == top]
            if not names and top != _ADAPTER:
                continue
            with atomic_path(target / top) as part:
                if top == _ADAPTER:
                    part.mkdir()
                for name in names:
                    copied = part.parent / name
                    shutil.copyfile(_inside(root, source / name), copied)
                    if sha256_of(copied) != entry.files[name]:
                        raise StoreError(f"{name} was altered while it was read")
        write_json(target / ENTRY, entry.model_dump(mode="json"))


def held(table: RunTable) -> dict[str, int]:
    """Return how many nodes of a configuration each store of ``reuse`` may have, by their ids and identities alone."""
    found: dict[str, int] = Counter()
    for kind in STORED.values():
        for node in kind.nodes(table).values():
            for root in table.config.reuse:
                with contextlib.suppress(StoreError, OSError):
                    if _load(root, _place(root, kind, node.id)).identity == node.identity:
                        found[str(root)] += 1
                        break
    return found


def take(
    table: RunTable, kind: NodeKind, node: Node, stores: Sequence[Path] | None = None, *, failed: bool = False
) -> Path | None:
    """Copy a node from the first store that holds it: same identity, triggers and inputs, all checksums right.

    Inputs that are not there are not compared. A node that cannot be taken is a warning that says why.

    Args:
        table: the run table of the configuration.
        kind: kind of the node.
        node: the node.
        stores: folders of the stores; None: those of ``reuse``.
        failed: whether to take a node that failed, too.

    Returns:
        The store; None if the node has to be computed.
    """
    if kind is FETCH:
        return None
    target = table.folder(node)
    for root in table.config.reuse if stores is None else stores:
        source = _place(root, kind, node.id)
        if not (source / ENTRY).is_file() or os.path.realpath(source) == os.path.realpath(target):
            continue
        try:
            entry = sound(root, source)
            if other := _difference(table, kind, node, entry, failed):
                raise StoreError(other)
            _copy(root, source, target, entry.model_copy(update={"taken_from": str(root)}))
        except StoreError as reason:
            print(f"warning: {kind.name} {node.id} is not taken from {root}: {reason}", flush=True)
        else:
            return root
    return None


def is_done(table: RunTable, kind: NodeKind, node: Node) -> bool:
    """Return whether a node is there, computed by this code from these inputs, and neither failed nor damaged."""
    try:
        return _difference(table, kind, node, sound(table.config.results, table.folder(node)), failed=False) is None
    except StoreError:
        return False


def _difference(table: RunTable, kind: NodeKind, node: Node, entry: Entry, failed: bool) -> str | None:
    """Return why an entry is not the node that this configuration and this code would compute; None if it is."""
    if entry.identity != node.identity:
        return "it is of another identity"
    if entry.triggers != _triggers(table, kind, node):
        return "the code or the definition that it was computed with is another"
    for what, digest in _inputs(table, kind, node).items():
        if entry.inputs.get(what) != digest:
            return f"it was computed from another input ({what})"
    return "it failed there" if entry.status == "failed" and not failed else None


def origins(table: RunTable) -> dict[str, int]:
    """Return the stores that nodes of a configuration were taken from, with the number of nodes of each."""
    files = [table.folder(node) / ENTRY for kind in STORED.values() for node in kind.nodes(table).values()]
    return Counter(store for file in files if file.is_file() and (store := read_json(file).get("taken_from")))


def _put(root: Path, source_root: Path, source: Path, *, replace: bool) -> str:
    """Copy a node into the store ``root`` unless it has it; a failed one never replaces a finished one.

    Returns:
        ``added``, ``kept`` (the store has the same), ``differs`` (it has another, which stays) or ``replaced``.

    Raises:
        StoreError: the node is damaged, or there is a link in its place in the store.
    """
    entry = sound(source_root, source).model_copy(update={"taken_from": None})
    target, done = _inside(root, root / source.relative_to(source_root)), "added"
    if (target / ENTRY).is_file():
        done = "replaced"
        with contextlib.suppress(StoreError):  # what is damaged is replaced
            there = sound(root, target)
            if (there.status, entry.status) != ("failed", "ok"):
                if there.status != entry.status or there.agrees(entry):
                    return "kept"
                if not replace:
                    return "differs"
    _copy(source_root, source, target, entry)
    return done


def add(table: RunTable, root: Path, max_bytes: float) -> Iterator[tuple[str, str]]:
    """Copy the finished nodes of a configuration, and the configuration itself, into a store.

    Yields:
        ``(what, node)`` for every node: what :func:`_put` did, ``unfinished``, or why it was left out.
    """
    write_snapshot(table.config)
    _copy_configuration(snapshot_path(table.config), root)
    for kind in STORED.values():
        own = getattr(table.config, kind.node.FOLDER[0])
        for node in kind.nodes(table).values():
            folder, done = table.folder(node), "unfinished"
            if (folder / ENTRY).is_file():
                try:
                    size = size_of(folder, _load(own, folder))
                    too_large = f"left out, {size / 1e6:,.0f} MB"
                    done = too_large if size > max_bytes else _put(root, own, folder, replace=True)
                except StoreError as reason:
                    done = f"refused, {reason}"
            yield done, f"{kind.name} {node.id}"


def merge(root: Path, other: Path) -> Iterator[tuple[str, str]]:
    """Copy what another store holds, and this one does not; yields as :func:`add` does."""
    for file in sorted((other / "plan").glob("config-*.yaml")):
        if file.is_file() and not file.is_symlink():
            _copy_configuration(file, root)
    for folder in _folders(other):
        try:
            done = _put(root, other, folder, replace=False)
        except StoreError as reason:
            done = f"refused, {reason}"
        yield done, str(folder.relative_to(other))


def _copy_configuration(file: Path, root: Path) -> None:
    with atomic_path(_inside(root, root / "plan" / file.name)) as part:
        shutil.copyfile(file, part)


def _folders(root: Path) -> Iterator[Path]:
    """Yield the folders of a store that have an entry, sorted; links and what is hidden are not followed."""
    for top, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        if ENTRY in files:
            yield Path(top)


def verify(root: Path) -> Iterator[tuple[str, str | None]]:
    """Check every node of a store; yields ``(node, what is wrong with it or None)``."""
    for folder in _folders(root):
        try:
            sound(root, folder)
            yield str(folder.relative_to(root)), None
        except StoreError as reason:
            yield str(folder.relative_to(root)), str(reason)


def unnamed(root: Path, tables: Sequence[RunTable]) -> Iterator[tuple[Path, Entry]]:
    """Yield the nodes of a store that no configuration names; those with a malformed entry are nobody's to remove."""
    named = {(kind.name, id) for kind in STORED.values() for table in tables for id in kind.nodes(table)}
    for folder in _folders(root):
        try:
            entry = _load(root, folder)
        except StoreError:
            continue
        if (entry.kind, entry.id) not in named:
            yield folder, entry


def size_of(folder: Path, entry: Entry) -> int:
    """Return the size in bytes of the files of a node."""
    return sum(path.lstat().st_size for name in entry.files if os.path.lexists(path := folder / name))


def remove(root: Path, folder: Path, entry: Entry) -> None:
    """Remove the files of a node that its entry names, and the folders that are empty then."""
    for file in [folder / name for name in (ENTRY, *entry.files)]:
        _inside(root, file.parent)
        file.unlink(missing_ok=True)
    for folder_of_it in [folder / _ADAPTER, folder, *folder.parents]:
        if folder_of_it == root:
            break
        with contextlib.suppress(OSError):  # it is not there, or not empty
            folder_of_it.rmdir()


def take_all(table: RunTable, root: Path) -> tuple[int, list[str]]:
    """Take all nodes of a configuration that are not there yet from one store, failed ones too.

    Returns:
        how many were taken, and which are neither there nor in the store.
    """
    write_snapshot(table.config)
    taken, missing = 0, []
    for kind in STORED.values():
        for node in kind.nodes(table).values():
            if kind.report(table, node).is_file():
                continue
            if take(table, kind, node, [root], failed=True):
                taken += 1
            else:
                missing.append(f"{kind.name} {node.id}")
    return taken, missing
