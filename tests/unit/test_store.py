"""Stores: what is taken from them and what is not, and that a damaged or hostile one does no harm."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lofit.cli.app import app
from lofit.config import parse_config
from lofit.errors import LofitError, StoreError
from lofit.files import read_json, short_hash, write_json
from lofit.nodes import module_of
from lofit.plan import store
from lofit.plan.kinds import CAPTURE, FETCH, FIT, KINDS, LOCALIZE, PREPARE
from lofit.plan.nodes import Node
from lofit.plan.table import RunTable
from lofit.report.parts import collect_results
from tests.fitted import find, tiny_config
from tests.workflows import TRAINING

METHODS = {
    "base": None,
    "lofit": {"heads": {"k": [3], "params": TRAINING}, "params": TRAINING},
    "iti": {"heads": {"k": [2]}},
}
ENTRY = store.ENTRY


@dataclass
class Finished:
    """Results of a configuration, whose nodes are done, and a store that they were added to."""

    config: dict[str, Any]
    table: RunTable
    store: Path
    file: Path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("store")
    config = tiny_config(folder, METHODS)
    table = RunTable(parse_config(config))
    for kind in KINDS:
        for node in kind.nodes(table).values():
            with store.recorded(table, kind, node):
                module_of(kind).run(table, node)
    collect_results(table, "all")
    done = list(store.add(table, folder / "store", 1e9))
    assert {what for what, _ in done} == {"added"}
    return Finished(config, table, folder / "store", folder / "config.yaml")


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the store, as `cp -r` makes it, with file times at random."""
    copy = tmp_path / "copy"
    shutil.copytree(finished.store, copy)
    draw = random.Random(0)
    for path in sorted(copy.rglob("*")):
        os.utime(path, (draw.randrange(10**9), draw.randrange(10**9)))
    return copy


@pytest.fixture
def fresh(finished: Finished, copied: Path, tmp_path: Path) -> RunTable:
    """The same configuration with nothing computed but the base model, and a store."""
    return another(finished, tmp_path, reuse=[str(copied)])


def another(finished: Finished, tmp_path: Path, **changes: Any) -> RunTable:
    folders = {"results": str(tmp_path / "results"), "resources": str(tmp_path / "resources")}
    table = RunTable(parse_config(finished.config | folders | changes))
    for model in table.models.values():
        module_of(FETCH).run(table, model)
    return table


def take_up_to(table: RunTable, last: Node) -> None:
    """Take everything that a fit or an evaluation reads."""
    for kind in (PREPARE, CAPTURE, LOCALIZE, FIT):
        for node in kind.nodes(table).values():
            if node != last:
                assert store.take(table, kind, node)


def test_all_is_taken_and_gives_the_same_results(finished: Finished, fresh: RunTable) -> None:
    (copied,) = fresh.config.reuse
    for kind in KINDS:
        for node in kind.nodes(fresh).values():
            assert store.take(fresh, kind, node) == (None if kind is FETCH else copied)
            for path in () if kind is FETCH else kind.outputs(fresh, node):
                assert path.exists()
    collect_results(fresh, "all")
    own = finished.table.config.results / "results.csv"
    assert (fresh.config.results / "results.csv").read_text() == own.read_text()
    assert store.origins(fresh) == {str(copied): 9}
    again = list(store.add(fresh, copied, 1e9))
    assert {what for what, _ in again} == {"kept"}, "what was taken may be added again"


def test_results_are_a_store_too(finished: Finished, tmp_path: Path) -> None:
    table = another(finished, tmp_path, reuse=[str(finished.table.config.results)])
    node = find(table, "lofit").ranking
    assert node
    assert store.take(table, LOCALIZE, node) == finished.table.config.results
    assert store.take(finished.table, LOCALIZE, node, [finished.table.config.results]) is None, "not from itself"


def test_other_code_is_not_taken(fresh: RunTable, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    node = find(fresh, "lofit")
    monkeypatch.setattr("lofit.plan.kinds.source_hash", lambda *_: "edited")
    assert store.take(fresh, FIT, node) is None
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and f"warning: fit {node.id} is not taken" in said and "the code" in said
    assert not (fresh.folder(node) / "fit.json").exists()


@pytest.mark.parametrize("what", ["model", "data", "heads"])
def test_what_was_computed_from_other_inputs_is_not_taken(what: str, fresh: RunTable, capsys: Any) -> None:
    """Names and paths may be equal: an identity does not tell what is in a folder."""
    node = find(fresh, "lofit")
    take_up_to(fresh, node)
    assert node.ranking
    if what == "model":
        source = fresh.model_dir(node.model) / "source.json"
        record = read_json(source)
        record["files_sha256"]["model.safetensors"] = "0" * 64
        write_json(source, record)
    else:
        data, heads = fresh.folder(node.data) / "train.jsonl", fresh.folder(node.ranking) / "heads.parquet"
        with (data if what == "data" else heads).open("ab") as file:
            file.write(b"\n")
    assert store.take(fresh, FIT, node) is None
    assert f"it was computed from another input ({what})" in capsys.readouterr().out


def test_the_path_of_a_model_folder_on_another_machine_does_not_count(fresh: RunTable) -> None:
    node = find(fresh, "lofit")
    source = fresh.model_dir(node.model) / "source.json"
    write_json(source, read_json(source) | {"resolved_path": "/elsewhere"})
    assert store.take(fresh, FIT, node)


def change(key: str, value: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        write_json(folder / ENTRY, read_json(folder / ENTRY) | {key: value})

    return write


def flip(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return write


def link(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).rename(folder.parent / "moved")
        (folder / name).symlink_to(folder.parent / "moved")

    return write


def name_a_file(name: str) -> Callable[[Path], None]:
    """Have the entry hold a file of a strange name, with its right checksum if it is there."""

    def write(folder: Path) -> None:
        entry = read_json(folder / ENTRY)
        change("files", entry["files"] | {name: entry["files"]["fit.json"]})(folder)
        if ".." not in name and name[0] != "/":
            shutil.copyfile(folder / "fit.json", folder / name) if name != "adapter" else None

    return write


def other_identity(folder: Path) -> None:
    identity = read_json(folder / ENTRY)["identity"]
    change("identity", identity | {"k": [4]})(folder)


def other_place(folder: Path) -> None:
    id = read_json(folder / ENTRY)["id"]
    change("id", id.replace("fold0", "fold1"))(folder)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights": (flip("adapter/adapter_model.safetensors"), "adapter/adapter_model.safetensors was altered"),
    "report": (flip("fit.json"), "fit.json was altered"),
    "missing": (lambda folder: (folder / "fit.json").unlink(), "fit.json cannot be read"),
    "unnamed": (lambda folder: change("files", {})(folder), "is missing"),
    "not JSON": (lambda folder: (folder / ENTRY).write_bytes(b"\xff{"), "is not valid JSON"),
    "no object": (lambda folder: (folder / ENTRY).write_text("[3]"), "entry.json is malformed"),
    "no checksum": (lambda folder: change("triggers", "x")(folder), "entry.json is malformed (triggers"),
    "unknown key": (lambda folder: change("colour", "red")(folder), "entry.json is malformed (colour"),
    "identity": (other_identity, "its id does not belong to its identity"),
    "id": (other_place, "entry.json is of another node"),
    "kind": (lambda folder: change("kind", "localize")(folder), "entry.json is of another node"),
    "above": (name_a_file("../../stolen.json"), "../../stolen.json is not a file"),
    "in adapter": (name_a_file("adapter/../../x.json"), "adapter/../../x.json is not a file"),
    "absolute": (name_a_file("/stolen.json"), "/stolen.json is not a file"),
    "code": (name_a_file("adapter/modeling.py"), "adapter/modeling.py is not a file"),
    "pickle": (name_a_file("adapter/adapter_model.bin"), "adapter/adapter_model.bin is not a file"),
    "folder": (name_a_file("adapter"), "adapter is not a file"),
    "link": (link("fit.json"), "fit.json is a link"),
    "linked folder": (link("adapter"), "is a link, or behind one"),
    "linked entry": (link(ENTRY), "entry.json is a link"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_not_taken_and_verify_finds_it(
    damage: str, fresh: RunTable, tmp_path: Path, capsys: Any
) -> None:
    node, (copied,) = find(fresh, "lofit"), fresh.config.reuse
    assert dict.fromkeys(dict(store.verify(copied)).values()) == {None: None}
    spoil, message = DAMAGE[damage]
    folder = copied / "runs" / node.id
    spoil(folder)
    before = sorted(path for path in tmp_path.rglob("*") if path != fresh.folder(node))
    assert store.take(fresh, FIT, node) is None
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and message in said
    assert sorted(path for path in tmp_path.rglob("*") if path != fresh.folder(node)) == before
    ((where, wrong),) = [(where, wrong) for where, wrong in store.verify(copied) if wrong]
    assert where == f"runs/{node.id}" and message in wrong
    result = CliRunner().invoke(app, ["store", "verify", str(copied)])
    assert result.exit_code != 0 and len(result.stdout.splitlines()) == 1 and message in result.stdout
    ((refused, _),) = [line for line in store.merge(tmp_path / "merged", copied) if line[0] != "added"]
    assert message in refused


def test_a_file_that_is_altered_while_it_is_copied_gives_no_node(
    fresh: RunTable, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    node = find(fresh, "lofit")
    monkeypatch.setattr("lofit.plan.store.shutil.copyfile", lambda source, target: Path(target).write_text("x"))
    assert store.take(fresh, FIT, node) is None
    assert "was altered while it was read" in capsys.readouterr().out
    assert not (fresh.folder(node) / ENTRY).exists()
    assert not (fresh.folder(node) / "fit.json").exists()


def test_a_store_whose_folders_lead_elsewhere_is_not_written_to(finished: Finished, tmp_path: Path) -> None:
    outside, hostile = tmp_path / "outside", tmp_path / "hostile"
    outside.mkdir()
    hostile.mkdir()
    for name in ("runs", "tasks", "localize", "activations"):
        (hostile / name).symlink_to(outside)
    assert all("is a link" in what for what, _ in store.add(finished.table, hostile, 1e9))
    assert list(outside.iterdir()) == []
    (hostile / "plan").rename(tmp_path / "plan")
    (hostile / "plan").symlink_to(outside)
    with pytest.raises(StoreError, match="is a link"):
        list(store.add(finished.table, hostile, 1e9))


def test_failed_nodes_travel_but_a_run_computes_them_anew(
    finished: Finished, fresh: RunTable, copied: Path, tmp_path: Path, capsys: Any
) -> None:
    node = find(fresh, "lofit")
    module_of(FIT).run(fresh, node, "out of memory")
    store.record(fresh, FIT, node)
    done = [(what, name) for what, name in store.add(fresh, tmp_path / "failed", 1e9) if what != "unfinished"]
    assert done == [("added", f"fit {node.id}")]
    table = another(finished, tmp_path / "new", reuse=[str(tmp_path / "failed")])
    assert store.take(table, FIT, node) is None
    assert "it failed there" in capsys.readouterr().out
    assert store.take(table, FIT, node, failed=True)
    assert read_json(table.folder(node) / "fit.json")["reason"] == "out of memory"
    assert ("kept", f"fit {node.id}") in store.add(fresh, copied, 1e9), "a failure replaces nothing"
    assert ("replaced", f"runs/{node.id}") in store.merge(tmp_path / "failed", copied)
    assert read_json(tmp_path / "failed" / "runs" / node.id / "fit.json")["status"] == "ok"


def test_stores_of_several_machines_merge(finished: Finished, copied: Path, tmp_path: Path) -> None:
    one, two, both = tmp_path / "one", tmp_path / "two", tmp_path / "both"
    shutil.copytree(copied, one)
    shutil.copytree(copied, two)
    node = find(finished.table, "lofit")
    shutil.rmtree(one / "runs" / node.id / "eval")
    shutil.rmtree(two / "activations")
    change("triggers", "0" * 64)(two / "runs" / node.id)
    result = CliRunner().invoke(app, ["store", "merge", str(both), str(one), str(two)])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [f"runs/{node.id}: differs", "9 added, 6 kept, 1 differs"]
    assert {wrong for _, wrong in store.verify(both)} == {None}
    assert sorted(path.relative_to(both) for path in both.rglob("*")) == sorted(
        path.relative_to(copied) for path in copied.rglob("*")
    )
    assert read_json(both / "runs" / node.id / ENTRY)["triggers"] != "0" * 64


def test_what_is_damaged_or_older_is_replaced_and_what_is_large_left_out(
    finished: Finished, copied: Path, tmp_path: Path
) -> None:
    node = find(finished.table, "lofit")
    flip("fit.json")(copied / "runs" / node.id)
    data = next(iter(finished.table.data.values()))
    change("triggers", "0" * 64)(copied / "tasks" / data.id)
    done = dict((name, what) for what, name in store.add(finished.table, copied, 1e9))
    assert [name for name, what in done.items() if what == "replaced"] == [f"prepare {data.id}", f"fit {node.id}"]
    assert {wrong for _, wrong in store.verify(copied)} == {None}
    done = dict((name, what) for what, name in store.add(finished.table, tmp_path / "small", 1e4))
    assert done[f"capture {next(iter(finished.table.activations))}"] == "left out, 0 MB"
    assert done[f"prepare {data.id}"] == "added"


def test_pruning_asks_and_removes_what_is_the_stores_own(
    finished: Finished, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "fewer" / "config.yaml"
    file.parent.mkdir()
    (file.parent / "checkpoint").symlink_to(finished.file.parent / "checkpoint")
    fewer = finished.config | {"methods": {"base": None, "lofit": METHODS["lofit"]}}
    write_json(file, fewer)
    node = find(finished.table, "iti")
    own = copied / "runs" / node.id / "adapter" / "notes.txt"
    own.write_text("mine")
    command = ["store", "prune", str(copied), "--configfile", str(file)]
    before = sorted(copied.rglob("*"))
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, LofitError) and "say --yes" in str(refused.exception)
    monkeypatch.setattr("lofit.cli.store._can_ask", lambda: True)
    for answer in ("n\n", "\n", "yes\n"):
        kept = CliRunner().invoke(app, command, input=answer)
        assert kept.exit_code == 0 and "nothing was removed" in kept.stdout
    assert sorted(copied.rglob("*")) == before
    listed = [line.split()[-1] for line in kept.stdout.splitlines() if " MB " in line]
    activations, (ranking,) = list(finished.table.activations), [node.ranking]
    assert ranking and listed == [
        f"activations/{activations[0]}", f"localize/{ranking.id}", f"runs/{node.id}",
        f"runs/{finished.table.own_evaluation(node).id}",
    ]  # fmt: skip
    both = CliRunner().invoke(app, [*command, "--configfile", str(finished.file), "--yes"])
    assert both.stdout == "nothing to remove\n"
    removed = CliRunner().invoke(app, command, input="y\n")
    assert "removed 4" in removed.stdout
    gone = {path.relative_to(copied).as_posix() for path in set(before) - set(copied.rglob("*"))}
    assert own.read_text() == "mine"
    assert {f"activations/{activations[0]}/heads.npy", f"runs/{node.id}/fit.json", "activations"} <= gone
    assert not [name for name in gone if "lofit-" in name.replace(ranking.id, "")]
    assert {wrong for _, wrong in store.verify(copied)} == {None}


def test_published_results_are_redrawn_from_the_configuration_that_travels(
    finished: Finished, copied: Path, tmp_path: Path
) -> None:
    (file,) = (copied / "plan").iterdir()
    assert file.name == f"config-{short_hash(finished.table.config.model_dump(mode='json'))}.yaml"
    here = tmp_path / "config.yaml"
    write_json(here, finished.config | {"results": str(tmp_path / "r"), "resources": str(tmp_path / "s")})
    for taken in ("9 taken, 0 missing", "0 taken, 0 missing"):
        result = CliRunner().invoke(app, ["store", "take", str(copied), "--configfile", str(here)])
        assert result.exit_code == 0, result.exception
        assert result.stdout == f"{taken}\n"
    result = CliRunner().invoke(app, ["render", "main", "--configfile", str(here)])
    assert result.exit_code == 0, result.exception
    assert "lofit (3 heads)" in (tmp_path / "r" / "tables" / "main.md").read_text()


def test_what_is_no_store_is_said(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(LofitError, match=r"reuse: .*nowhere is not a folder"):
        another(finished, tmp_path, reuse=["nowhere"])
    result = CliRunner().invoke(app, ["store", "verify", str(tmp_path / "nowhere")])
    assert "there is no such store" in str(result.exception)
