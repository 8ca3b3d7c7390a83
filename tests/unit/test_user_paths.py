"""Paths, folders and names that a user gives: what they mean, and that nothing of the user's is replaced."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from lofit.cli import train
from lofit.cli.app import app
from lofit.config import Config, load_config, parse_config
from lofit.config.results import write_snapshot
from lofit.errors import ConfigError, LofitError, TaskError
from lofit.files import expanded, user_folder
from lofit.plan.table import RunTable
from lofit.sources.fetcher import Fetcher
from lofit.tasks import load_task, prepare_task
from tests.unit.test_config import GOOD, put
from tests.unit.test_files import KILLED

REPOSITORY = Path(__file__).parents[2]
ROWS = [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(8)]


def task(folder: Path, rows: list[dict[str, Any]] = ROWS, tests: list[dict[str, Any]] = ROWS[:2]) -> Path:
    folder.mkdir(parents=True)
    for name, split in (("train", [row for row in rows if row not in tests] or rows), ("test", tests)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in split))
    return folder


def model(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True)
    sizes = {"model_type": "llama", "num_hidden_layers": 3, "num_attention_heads": 4}
    (folder / "config.json").write_text(json.dumps(config or sizes))
    return folder


def configured(task_dir: Path, model_dir: Path, k: float = 3, out: Path = Path("out"), **more: Any) -> Config:
    return train.configuration(task_dir, str(model_dir), ["lofit"], k, [1], out, None, **more)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_a_tilde_is_the_home_folder_in_every_path(home: Path) -> None:
    task(home / "t")
    made = parse_config(
        GOOD
        | {"results": "~/r", "resources": "~/s", "data_mirror": "~/m", "tasks": {"t": {"path": "~/t"}}}
        | {"model_sources": {"own": {"source": {"kind": "local", "path": "~/x"}, "n_layers": 1, "n_heads": 1}}}
    )
    own, source = made.tasks["t"], made.model_sources["own"].source
    assert own and source.kind == "local"
    found = [made.results, made.resources, made.data_mirror, own.path, source.path]
    assert found == [home / name for name in "rsmtx"]
    made = train.configuration(Path("~/t"), str(model(home / "x")), ["lora"], 3, [1], Path("~/out"), Path("~/m"))
    assert (made.results, made.resources, made.data_mirror) == (home / "out", home / "out" / "resources", home / "m")
    made = train.configuration(Path("~/t"), "~/x", ["lora"], 3, [1], Path("out"), None)
    assert made.models == ["x"]
    (home / "c.yaml").write_text(yaml.safe_dump(GOOD))
    assert CliRunner().invoke(app, ["plan", "--configfile", "~/c.yaml"]).exit_code == 0
    (home / "files.yaml").write_text("train: ~/t/train.jsonl\ntest: ~/t/test.jsonl\n")
    assert load_task("files", home / "files.yaml").files[0] == home / "t" / "train.jsonl"


@pytest.mark.parametrize("key", ["results", "resources"])
@pytest.mark.parametrize("value", ["~", "/", "..", "link", "file", "~/../home"])
def test_outputs_never_fill_the_home_folder_one_above_it_or_a_file(key: str, value: str, home: Path) -> None:
    Path("link").symlink_to(home)
    Path("file").write_text("mine")
    with pytest.raises(ConfigError, match=f"config: {key}: .*name a folder") as caught:
        parse_config(GOOD | {key: value})
    assert "\n" not in str(caught.value)
    assert parse_config(GOOD | {key: "new/folder"})


@pytest.mark.parametrize("key", ["results", "resources"])
@pytest.mark.parametrize(
    "value", [".", "", "./", "a\nb", "a\x1bb", "a\u2028", "{model}", "a}", "~nobody-at-all/x", "a\0b"]
)
def test_outputs_have_a_name_that_the_workflow_can_use(key: str, value: str, home: Path) -> None:
    with pytest.raises(ConfigError, match=f"config: {key}: .*(name|rename|write|correct) ") as caught:
        parse_config(GOOD | {key: value})
    assert "\n" not in str(caught.value)


def test_models_and_tasks_are_in_folders_that_the_workflow_can_name(home: Path) -> None:
    source = {"source": {"kind": "local", "path": "{m}"}, "n_layers": 1, "n_heads": 1}
    for key, value in (("tasks", {"t": {"path": "{t}"}}), ("model_sources", {"own": source})):
        with pytest.raises(ConfigError, match=rf"config: {key}\..*path: braces.*rename"):
            parse_config(GOOD | {key: value})


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("t\udcff", "rename the folder"), ("t\0", "correct it"), ("~nobody-at-all", "write the whole path")],
)
def test_paths_that_lead_nowhere_are_one_line(name: str, remedy: str, home: Path) -> None:
    own, base = task(Path("t")), model(Path("m"))
    for task_dir, model_dir, out in ((name, base, "o"), (own, name, "o"), (own, base, name)):
        with pytest.raises(LofitError, match=remedy):
            configured(Path(task_dir), Path(model_dir), out=Path(out))
    with pytest.raises(LofitError, match=remedy), user_folder(Path(name)):
        pass
    assert sorted(path.name for path in Path().iterdir()) == ["m", "t"]


def test_what_a_configuration_reads_may_be_beside_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any working folder; what is not beside it is looked for there, where results are written too."""
    work = Path.cwd()
    task(work / "study" / "sums")
    model(work / "model")
    given = put("tasks", {"sums": {"path": "sums"}}) | {
        "models": ["tiny"],
        "model_sources": {"tiny": {"source": {"kind": "local", "path": "model"}, "n_layers": 3, "n_heads": 4}},
    }
    (work / "study" / "config.yaml").write_text(yaml.safe_dump(given))
    config = load_config(Path("study/config.yaml"))
    sums = config.tasks["sums"]
    assert sums and sums.path == Path("study/sums")
    assert config.model_entry("tiny").source.model_dump()["path"] == Path("model")
    assert config.results == Path("results")
    write_snapshot(config)
    [again] = Path("results/plan").glob("*.yaml")
    assert load_config(again).tasks == config.tasks
    assert load_config(work / "study" / "config.yaml").tasks == config.tasks  # as Snakemake names it
    monkeypatch.chdir(work / "model")
    elsewhere = [load_config(place / "study" / "config.yaml").tasks for place in (Path(".."), work)]
    assert elsewhere[0] == elsewhere[1] != config.tasks
    for place, named in (("study/sums", "."), ("study/deeper", "../sums")):
        (work / place).mkdir(exist_ok=True)
        given["tasks"]["sums"]["path"] = named  # type: ignore[index]
        (work / place / "config.yaml").write_text(
            yaml.safe_dump(given | {"model_sources": {}, "models": ["smollm2-135m"]})
        )
        monkeypatch.chdir(work / place)
        config = load_config(Path("config.yaml"))
        assert config.tasks["sums"] and config.tasks["sums"].path == Path(named)
        write_snapshot(config)
        [again] = Path("results/plan").glob("*.yaml")
        assert load_config(again).tasks == config.tasks, "a node that reads the copy finds the same"
    monkeypatch.chdir(work / "study")
    assert (load_config(Path("config.yaml")).tasks["sums"] or sums).path == Path("sums")


def test_a_working_folder_that_was_removed_is_one_line(home: Path) -> None:
    Path.cwd().rmdir()
    with pytest.raises(LofitError, match="x: the working folder is not there any more; change to another"):
        expanded(Path("x"))
    with pytest.raises(ConfigError, match="change to another"):  # which other parts need all the same
        expanded(home)
    with pytest.raises(ConfigError, match="results: x: the working folder"):
        parse_config(GOOD | {"results": "x"})


@pytest.mark.parametrize("out", ["m", "m/o", "m/o/p", "link/o"])
def test_nothing_is_written_into_the_folder_of_a_model(out: str, home: Path) -> None:
    base = model(Path("m"))
    Path("link").symlink_to("m")
    with pytest.raises(ConfigError, match=r"results: .* is in the folder of model m; name another folder"):
        configured(task(Path("t")), base, out=Path(out))
    assert [path.name for path in base.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    "name",
    [
        *("report.html", "results.csv", "items.parquet", "tables/main.csv", "figures/mine.png", "collected/main/x.csv"),
        *("logs/collect.log", "benchmarks/mine.tsv", "plan/config-a.yaml", "plan/config-0123abcd.yaml", "notes.txt"),
        *("runs/exp/model/fold0/seed1/ckpt/w", "runs/exp/model/fold0/seed1/ckpt-00012000/w", ".lora.lofit-notes/w"),
    ],
)
def test_results_do_not_replace_files_of_the_users_own(name: str, home: Path) -> None:
    mine = Path("mine") / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(ConfigError, match=r"results: mine holds .*, which no run of this suite wrote; name another"):
        parse_config(GOOD | {"results": "mine"})
    task(Path("t"))
    with pytest.raises(ConfigError, match="which no run of this suite wrote"):
        configured(Path("t"), model(Path("m")), out=Path("mine"))
    assert mine.read_text() == "mine"


def test_results_of_ours_are_used_again_wherever_they_came_from(home: Path) -> None:
    made = parse_config(GOOD)
    table = RunTable(made)
    nodes = [*map(table.folder, table.fits.values()), *map(table.folder, table.localize.values())]
    for node in nodes:  # as far as one that was killed early had come
        node.mkdir(parents=True)
        Path("results/report.html").write_text("a page of ours")
        assert parse_config(GOOD)
        shutil.rmtree("results")
    assert subprocess.run([sys.executable, "-c", KILLED, "results/plan/c.yaml"], cwd=Path.cwd(), check=False).returncode
    assert list(Path("results/plan").iterdir()) and parse_config(GOOD)
    write_snapshot(made)
    Path("results/report.html").write_text("a page of ours")
    assert parse_config(GOOD)
    write_snapshot(parse_config(GOOD | {"results": "all/one"}))
    Path("all/README.md").write_text("as in the repository")
    Path("all/empty/folder").mkdir(parents=True)
    Path("all/resources").mkdir()
    Path("all/resources/model").write_text("fetched by hand")
    assert parse_config(GOOD | {"results": "all", "resources": "all/resources"})
    Path("all/notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"all holds notes.txt"):
        parse_config(GOOD | {"results": "all", "resources": "all/resources"})


@pytest.mark.parametrize("text", ["{1: a, b: c}", "&a [*a]", "{", "\xff", "? [a]\n: b"])
def test_a_plan_that_is_not_ours_proves_nothing(text: str, home: Path) -> None:
    Path("mine/plan").mkdir(parents=True)
    Path("mine/plan/config-0123abcd.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match="which no run of this suite wrote"):
        parse_config(GOOD | {"results": "mine"})


@pytest.mark.parametrize(
    ("folder", "named"),
    [
        ("my task", "my-task"),
        ("größe", "gr-e"),
        ("задача", "task"),
        ("-x_", "x_"),
        ("a\nb", "a-b"),
        ("siqa", "my-siqa"),
    ],
)
def test_names_are_made_of_folders_whatever_they_are_called(folder: str, named: str, tmp_path: Path) -> None:
    made = configured(task(tmp_path / folder), model(tmp_path / "models" / folder))
    assert list(made.tasks) == [named]
    assert made.models == [named.replace("my-siqa", "siqa").replace("task", "model") if folder != "my task" else named]
    assert made.all_models == list(made.model_sources)


@pytest.mark.parametrize("k", [float("inf"), float("nan"), 1.5, 0, -1, -0.5, float("-inf")])
def test_a_number_of_heads_that_is_none_is_one_line(k: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--k .*: give a whole number of heads, or a share of them between 0 and 1"):
        configured(task(tmp_path / "t"), model(tmp_path / "m"), k)


@pytest.mark.parametrize(("k", "count"), [(1, 1), (12, 12), (0.25, 3)])
def test_heads_are_counted_or_shared(k: float, count: int, tmp_path: Path) -> None:
    table = RunTable(configured(task(tmp_path / "t"), model(tmp_path / "m"), k))
    assert table.head_counts() == {"m": [count]}


def test_overlap_has_an_option(tmp_path: Path) -> None:
    folder = task(tmp_path / "t", ROWS, ROWS[:2] + ROWS[4:5])
    with (folder / "train.jsonl").open("a") as file:
        file.write(json.dumps(ROWS[0]) + "\n")
    for overlap in ("refuse", "replace", "keep"):
        made = configured(folder, model(tmp_path / overlap), overlap=overlap)
        data = next(iter(RunTable(made).data.values()))
        assert data.options["overlap"] == overlap
    own = load_task("t", folder)
    with pytest.raises(TaskError, match=r"lofit train --overlap"):
        prepare_task(own, own.Options(), 0, 0, Fetcher(tmp_path, None), tmp_path / "out")
    (folder / "test.jsonl").write_bytes((folder / "train.jsonl").read_bytes())
    with pytest.raises(TaskError, match=r"every train row shares its prompt .*, so none is left"):
        prepare_task(own, own.Options(overlap="replace"), 0, 0, Fetcher(tmp_path, None), tmp_path / "out")


@pytest.mark.parametrize("n", [2, 3, 4, 5, 9, 15, 30])
def test_one_prompt_at_least_is_set_aside(n: int, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}:", "answer": str(i)} for i in range(n) for _ in range(2)]
    own = load_task("t", task(tmp_path / "t", rows, [{"prompt": "x", "answer": "y"}]))
    made = own.prepare(own.Options(), 0, 0, Fetcher(tmp_path, None))
    asked = [{row["prompt"] for row in split} for split in (made.train, made.validation)]
    assert len(asked[1]) == max(1, n - round(0.9 * n)) and len(asked[0]) == n - len(asked[1])
    assert not asked[0] & asked[1]


def test_one_prompt_alone_cannot_be_set_aside(tmp_path: Path) -> None:
    rows = [{"prompt": "Name a colour:", "answer": colour} for colour in ("red", "green", "blue")]
    own = load_task("t", task(tmp_path / "t", rows, [{"prompt": "x", "answer": "y"}]))
    with pytest.raises(TaskError, match="all rows share a prompt or a cluster, so none can be set aside"):
        own.prepare(own.Options(), 0, 0, Fetcher(tmp_path, None))


ARMS = {"base": {"method": "base"}}


@pytest.mark.parametrize("name", ["a\nb", "a\n", "\ra", "a\u2028b", "a\x0bb", ""])
@pytest.mark.parametrize(
    "path",
    ["arms", "title", "experiments", "tasks", "model_sources", "methods", "models"],
)
def test_names_are_one_line(path: str, name: str) -> None:
    experiment = {"kind": "table", "arms": ARMS}
    broken = {
        "arms": put("experiments", {"x": experiment | {"arms": {name: {"method": "base"}}}}),
        "title": put("experiments", {"x": experiment | {"title": name}}),
        "experiments": put("experiments", {name: experiment}),
        "tasks": put("tasks", {name: None}),
        "model_sources": put(
            "model_sources", {name: {"source": {"kind": "local", "path": "x"}, "n_layers": 1, "n_heads": 1}}
        ),
        "methods": put("methods", {name: None}),
        "models": put("models", [name]),
    }
    with pytest.raises(ConfigError) as caught:
        parse_config(broken[path])
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbf" + yaml.safe_dump(GOOD).encode())
    assert load_config(tmp_path / "c.yaml") == parse_config(GOOD)
    folder = task(tmp_path / "t")
    for file in folder.iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load_task("t", folder).objective == "sft"


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "clean", *arguments]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, stdin=subprocess.DEVNULL, check=False)


def test_make_clean_says_what_goes_and_asks(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    (tmp_path / "results" / "mine").mkdir(parents=True)
    for name in ("results/README.md", "results/mine/notes.txt"):
        (tmp_path / name).write_text("mine")
    refused = make(tmp_path)
    assert refused.returncode and "results/mine" in refused.stdout and "YES=1" in refused.stderr
    for answer in (b"\n", b"n\n", b"yes please\n"):
        ours, theirs = pty.openpty()
        with subprocess.Popen(["make", "clean"], cwd=tmp_path, stdin=theirs, stdout=-1, stderr=-1) as asked:
            os.write(ours, answer)
            assert b"Delete it?" in asked.communicate()[0]
        os.close(ours)
        os.close(theirs)
        assert asked.returncode
    assert (tmp_path / "results" / "mine" / "notes.txt").read_text() == "mine"
    assert make(tmp_path, "YES=1").returncode == 0
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["README.md"]
