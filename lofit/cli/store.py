"""Commands on stores: folders of finished nodes that travel."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from lofit.cli.app import DEFAULT, USE, ConfigFile, app, read_table
from lofit.errors import ConfigError, LofitError, StoreError
from lofit.files import expanded

stores = typer.Typer(help="Folders of finished nodes that travel; docs/usage.md.", no_args_is_help=True)
app.add_typer(stores, name="store", rich_help_panel=USE)

Store = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of the store.")]


def _plan() -> ModuleType:
    """Return the module that does the work; it imports the configuration, which other commands need not wait for."""
    from lofit.plan import store

    return store


def _existing(folder: Path) -> Path:
    if not (folder := expanded(folder)).is_dir():
        raise ConfigError(f"{folder}: there is no such store; name a folder that `lofit store add` wrote")
    return folder


def _can_ask() -> bool:
    return sys.stdin.isatty()


def _tell(done: Iterable[tuple[str, str]]) -> None:
    """Print one line for every node that was not simply added, and how many there are of each."""
    counts: dict[str, int] = {}
    for what, node in done:
        if what not in ("added", "kept", "unfinished"):
            print(f"{node}: {what}")
        counts[what.partition(",")[0]] = counts.get(what.partition(",")[0], 0) + 1
    print(", ".join(f"{count} {what}" for what, count in counts.items()) or "no nodes")
    if "refused" in counts:
        raise StoreError(f"{counts['refused']} nodes were refused, see above; compute them again")


@stores.command()
def add(
    store: Store,
    max_gb: Annotated[float, typer.Option(min=0, help="Larger nodes are listed and left out (1e9 bytes).")] = 5.0,
    configfile: ConfigFile = DEFAULT,
) -> None:
    """Copy the finished nodes of a configuration into a store, and the configuration with them."""
    _tell(_plan().add(read_table(configfile), expanded(store), max_gb * 1e9))


@stores.command()
def merge(store: Store, others: Annotated[list[Path], typer.Argument(metavar="OTHER...", help="Stores.")]) -> None:
    """Copy what other stores hold into a store; what it has already stays."""
    sources = [_existing(other) for other in others]
    _tell(done for source in sources for done in _plan().merge(expanded(store), source))


@stores.command()
def verify(store: Store) -> None:
    """Check the checksums, the completeness and the ids of all nodes of a store; one line for each that is damaged."""
    found = list(_plan().verify(_existing(store)))
    damaged = [(node, wrong) for node, wrong in found if wrong]
    for node, wrong in damaged:
        print(f"{node}: {wrong}")
    if damaged:
        raise StoreError(f"{store}: {len(damaged)} of {len(found)} nodes are damaged; remove their folders")
    print(f"{len(found)} nodes, none damaged")


@stores.command()
def take(store: Store, configfile: ConfigFile = DEFAULT) -> None:
    """Copy the nodes of a configuration from a store into its results and gather their scores, without the workflow.

    Then `lofit render`, `lofit compare` and `lofit summary` work on them. Nodes that are there already stay.
    """
    from lofit.report.parts import collect_results
    from lofit.report.paths import part_inputs

    table = read_table(configfile)
    taken, missing = _plan().take_all(table, _existing(store))
    for node in missing[:5]:
        print(f"not in the store: {node}")
    if len(missing) > 5:
        print(f"... and {len(missing) - 5} more")
    print(f"{taken} taken, {len(missing)} missing")
    for part in table.parts():
        needed = [path for paths in part_inputs(table, part).values() for path in paths]
        if lost := [path for path in needed if not path.exists()]:
            print(
                f"scores of '{part}' are not gathered: {len(lost)} files are missing; to compute them, name the "
                "store under `reuse` of the configuration, and `lofit run`"
            )
        else:
            collect_results(table, part)


@stores.command()
def prune(
    store: Store,
    configfile: Annotated[list[Path], typer.Option(help="Configuration whose nodes stay; repeatable.")],
    yes: Annotated[bool, typer.Option("--yes", help="Remove them without asking.")] = False,
) -> None:
    """List the nodes of a store that no configuration names, and remove them after asking.

    Ids depend on the device and its precision: name snapshots (`STORE/plan/`) for nodes of another machine.
    """
    root, found = _existing(store), _plan()
    unnamed = list(found.unnamed(root, [read_table(file) for file in configfile]))
    for folder, entry in unnamed:
        print(f"{found.size_of(folder, entry) / 1e6:10.1f} MB  {folder.relative_to(root)}")
    if not unnamed:
        print("nothing to remove")
        return
    if not yes and not _can_ask():
        raise LofitError("nobody to ask; say --yes to remove all this")
    if not yes and input(f"Remove these {len(unnamed)} nodes? [y/N] ") != "y":
        print("nothing was removed")
        return
    for folder, entry in unnamed:
        found.remove(root, folder, entry)
    print(f"removed {len(unnamed)}")
