"""Commands that begin a study, run it, and say how far it is."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml
from snakemake_interface_logger_plugins.common import LogEvent
from typer.testing import CliRunner

from lofit.cli import study
from lofit.cli.app import app
from lofit.cli.node_lines import LogHandler, duration
from lofit.config import load_config, parse_config
from lofit.config.form import Config
from lofit.config.template import ready_names, write_template
from lofit.errors import ConfigError, ReportError
from lofit.files import only_writer, read_json, write_json
from lofit.nodes import module_of
from lofit.plan.kinds import EVALUATE, FETCH, FIT, LOCALIZE, PREPARE
from lofit.plan.store import recorded
from lofit.plan.table import MAIN, RunTable
from lofit.report.compare import compare
from lofit.report.partial import draw, of_what_is_there
from lofit.report.parts import collect_results, is_collected
from lofit.report.status import hours_left, node_states, print_status, read_folder
from snakemake_logger_plugin_lofit import LogHandler as PluginsLogHandler
from tests.fitted import find, run_nodes, tiny_config

METHODS = {"base": None, "lofit": {"heads": {"k": [2]}}, "lora": None}


# --- lofit init


@pytest.mark.parametrize("name", ready_names())
def test_a_template_explains_every_key_and_changes_none(name: str, tmp_path: Path) -> None:
    text = write_template(tmp_path, name).read_text()
    given, commented = yaml.safe_load(text), re.sub(r"^#(?! )", "", text, flags=re.MULTILINE)
    assert set(Config.model_fields) == set(yaml.safe_load(commented))
    assert all(field.description for key, field in Config.model_fields.items() if key not in given)
    for data in (task["path"] for task in given["tasks"].values() if task and "path" in task):
        assert (tmp_path / data / "train.jsonl").is_file()
    assert parse_config(yaml.safe_load(commented)) == parse_config(given)


def test_a_plan_of_a_part_says_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    given = tiny_config(tmp_path, METHODS)

    def planned(*options: str) -> str:
        done = CliRunner().invoke(app, ["plan", *options])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output

    assert "config.yaml: 8 nodes" in planned()  # model, split, ranking, two fits and three evaluations
    assert "config.yaml: 4 nodes" in planned("--method", "lora")
    assert "have a result" not in planned()
    with pytest.raises(ConfigError, match="--task: unknown task 'listop'; did you mean 'listops'"):
        planned("--task", "listop")
    made = RunTable(parse_config(given))
    run_nodes(made, FETCH)
    for kind in (PREPARE, LOCALIZE, FIT):
        for node in kind.nodes(made).values():
            with recorded(made, kind, node):
                module_of(kind).run(made, node)
    assert "5 of them have a result already" in planned()
    again = given | {"results": str(tmp_path / "again"), "reuse": [str(tmp_path / "results")]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(again))
    shown = planned()
    assert "2 of them have a result already" in shown and f"3 are in the store {tmp_path}/results" in shown


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "examples" / "opposites").mkdir(parents=True)
    for present in ("examples/opposites", "config.yaml"):
        with pytest.raises(ConfigError, match=f"{present} exists already"):
            write_template(tmp_path, "demo")
        assert {path.name for path in tmp_path.iterdir()} <= {"examples", "config.yaml"}
        (tmp_path / "config.yaml").write_text("mine")
    assert (tmp_path / "config.yaml").read_text() == "mine"


def test_init_says_what_is_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["init", "my study", "--like", "own"])
    assert done.exit_code == 0, done.output
    assert "cd 'my study'\n  lofit plan\n  lofit run" in done.output
    monkeypatch.chdir("my study")
    assert "opposites" in load_config(Path("config.yaml")).tasks
    wrong = CliRunner().invoke(app, ["init", "--like", "ladptop"])
    assert "unknown configuration 'ladptop'; did you mean 'laptop'?" in str(wrong.exception)


# --- lofit run


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    experiments = {"ours": {"kind": "table", "title": "Ours", "arms": {"a": {"method": "lora"}}}}
    return tiny_config(tmp_path, METHODS, experiments=experiments)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    """The command line of Snakemake that `lofit run` becomes."""
    found: list[list[str]] = []
    monkeypatch.setattr(study.os, "execv", lambda program, words: found.append(words))
    done = CliRunner().invoke(app, ["run", *arguments])
    if done.exception:
        raise done.exception
    return found[0]


def test_run_is_snakemake_with_this_configuration(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    words = command(
        monkeypatch, "config.yaml", "-n", "--cores", "3", "--profile", "slurm", "--", "--unlock", "--nolock"
    )
    assert words[1:4] == ["-P", "-m", "snakemake"]
    at = {words[i]: words[i + 1] for i in range(4, len(words) - 1)}
    assert (at["--cores"], at["--configfile"], at["--logger"]) == ("3", "config.yaml", "lofit")
    assert Path(at["--snakefile"]).is_file()
    assert (Path(at["--profile"]) / "config.yaml").is_file() and (
        Path(at["--workflow-profile"]) / "config.yaml"
    ).is_file()
    assert "--dry-run" in words and words[-2:] == ["--unlock", "--nolock"]
    assert command(monkeypatch, "--", "--unlock")[-1] == "--unlock", "of config.yaml"


def test_cores_of_this_machine_limit_no_job_of_a_cluster(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.v8+.yaml").write_text("keep-going: true\n")
    for profile, given in (("slurm", False), ("grouped", False), ("mine", True)):
        assert ("--cores" in command(monkeypatch, "config.yaml", "--profile", profile)) == given


def test_run_of_a_part(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def targets(*arguments: str) -> list[str]:
        words = command(monkeypatch, "config.yaml", *arguments)
        return words[words.index("--") + 1 :]

    results = config["results"]
    assert targets("--only", "ours") == [f"{results}/tables/ours.md"]
    assert targets("--only", "tables/main", "--only", "suite") == [
        f"{results}/tables/{n}.md" for n in ("main", "suite")
    ]
    assert targets("--only", f"{results}/results.csv") == [f"{results}/results.csv"]
    table = RunTable(parse_config(config))
    wanted = [EVALUATE.report(table, node) for node in table.evaluations.values() if node.fit.method == "lofit"]
    assert targets("--method", "lofit", "--task", "listops", "--model", "tiny") == [str(path) for path in wanted]
    assert "--" not in command(monkeypatch, "config.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "mian"], "unknown table or figure 'mian'; did you mean 'main'?"),
        (["--only", "elsewhere/main.md"], "unknown table or figure"),
        (["--method", "lor"], "--method: unknown method 'lor'; did you mean 'lora'?"),
        (["--task", "boolq"], "--task: unknown task 'boolq'"),
        (["--only", "main", "--model", "tiny"], "--only names outputs, which have their own runs"),
        (["--profile", "slrum"], "--profile: slrum is neither a folder nor one of default, grouped, slurm"),
    ],
)
def test_what_run_refuses(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        command(monkeypatch, "config.yaml", *arguments)


def test_a_part_without_a_run_is_not_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, methods = {"mquake": None, "siqa": None}, {"base": None, "repe_contrast": None}
    given = {"models": ["smollm2-135m"], "tasks": tasks, "methods": methods}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(given))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no run has this --model, --task and --method"):
        command(monkeypatch, "config.yaml", "--task", "siqa", "--method", "repe_contrast")


# --- what is printed while it runs


class Terminal:
    """Events of a workflow, and what the plugin prints on a terminal, or elsewhere."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, terminal: bool = True, dryrun: bool = False) -> None:
        self.now = 0.0
        monkeypatch.setattr("lofit.cli.node_lines.time.monotonic", lambda: self.now)
        monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
        self.handler = LogHandler(SimpleNamespace(dryrun=dryrun), None)  # type: ignore[arg-type]

    def says(self, event: LogEvent | None, message: str = "", level: int = logging.INFO, **fields: Any) -> None:
        record = logging.LogRecord("snakemake", level, __file__, 1, message, None, None)
        record.__dict__ |= {"event": event, **fields}
        self.handler.emit(record)

    def job(self, id: int, rule: str, log: Path | None = None, **wildcards: str) -> None:
        fields = {"rule_name": rule, "log": [str(log)] if log else [], "wildcards": wildcards}
        self.says(LogEvent.JOB_INFO, jobid=id, **fields)


def test_the_plugin_is_what_snakemake_looks_for() -> None:
    assert PluginsLogHandler is LogHandler


def test_a_line_for_each_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Terminal(monkeypatch)
    shown.says(LogEvent.WORKFLOW_STARTED, configfiles=[str(tmp_path / "my.yaml")])
    shown.says(LogEvent.RUN_INFO, "Job stats", stats={"fit": 4, "table": 1, "all": 1, "total": 6})
    log = tmp_path / "fit.log"
    log.write_text("a warning\nm/t/lora-1: validation loss 2 -> 1\n\n")
    for id in range(3):
        shown.job(id, "fit", log)
    shown.now = 30.0
    for id in range(3):
        shown.says(LogEvent.JOB_FINISHED, job_id=id)
    shown.job(3, "table", tmp_path / "none.log", table="main")
    shown.says(LogEvent.JOB_FINISHED, job_id=3)
    shown.handler.close()
    shown.handler.close()
    first, _, third, table, last = capsys.readouterr().err.splitlines()
    assert first == "[1/5] fit m/t/lora-1: validation loss 2 -> 1; in 30 s; about 90 s left"
    assert third == "[3/5] fit m/t/lora-1: validation loss 2 -> 1; in 30 s; about 10 s left"  # three at once
    assert table == "[4/5] table main; in 0 s; about 10 s left"
    assert last.startswith("4 nodes in 30 s. Next: lofit summary --configfile ") and last.endswith("my.yaml")


def test_errors_are_one_line_with_the_log_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Terminal(monkeypatch, terminal=False)
    shown.says(LogEvent.RUN_INFO, stats={"fit": 3, "total": 3})
    log = tmp_path / "fit.log"
    log.write_text("error: no room on disk\nlater words\n")
    for id in range(3):
        shown.job(id, "fit", log if id else tmp_path / "gone.log", method="lora")
    shown.says(LogEvent.JOB_ERROR, level=logging.ERROR, jobid=0, rule_name="fit", log=[])
    shown.job(0, "fit", tmp_path / "gone.log", method="lora")  # tried again
    shown.says(LogEvent.JOB_FINISHED, job_id=0)
    shown.says(LogEvent.ERROR, "RuleException:\nCalledProcessError", logging.ERROR)
    shown.says(LogEvent.JOB_ERROR, level=logging.ERROR, jobid=1, rule_name="fit", log=[str(log)])
    shown.says(LogEvent.GROUP_ERROR, level=logging.ERROR, job_error_info=[{"jobid": 2, "rule_name": "fit"}])
    shown.says(LogEvent.JOB_ERROR, level=logging.ERROR, jobid=2, rule_name="fit", log=[str(log)])  # the same again
    shown.says(LogEvent.ERROR, "WorkflowError:\nDirectory cannot be locked", logging.ERROR)
    shown.says(None, "Exiting because a job execution failed.", logging.ERROR)
    shown.handler.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("fit lora: no log")
    assert lines[1:3] == [f"fit lora: no room on disk (log: {log})"] * 2
    assert lines[3:5] == ["WorkflowError:", "Directory cannot be locked"]
    assert lines[5] == (
        "2 nodes ended with an error, 1 of 3 are done. See: lofit status config.yaml; to go on: lofit run config.yaml"
    )


def test_a_dry_run_says_how_many(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown = Terminal(monkeypatch, dryrun=True)
    for _ in range(2):
        shown.says(LogEvent.RUN_INFO, stats={"fit": 3, "evaluate": 4, "all": 1, "total": 8})
    shown.handler.close()
    assert capsys.readouterr().err == "7 would run: 3 fit, 4 evaluate\n"
    Terminal(monkeypatch).says(None, "Nothing to be done (all requested files are present and up to date).")
    assert capsys.readouterr().err == "Nothing to do: everything is there.\n"


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.4, 119, 120, 7199, 7200)] == [
        "0 s",
        "119 s",
        "2 min",
        "120 min",
        "2.0 h",
    ]


# --- lofit status


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> RunTable:
    """A study of which one fit is done, one failed, and one node of each further state."""
    table = RunTable(parse_config(tiny_config(tmp_path_factory.mktemp("study"), METHODS)))
    run_nodes(table, FETCH, PREPARE, LOCALIZE, FIT)
    report = FIT.report(table, find(table, "lora"))
    write_json(report, read_json(report) | {"status": "failed", "reason": "loss diverged"})
    stopped = next(node for node in table.evaluations.values() if node.fit.method == "base")
    log = EVALUATE.log(table, stopped.id)
    log.parent.mkdir(parents=True)
    log.write_text("killed")
    return table


def states(table: RunTable) -> dict[tuple[str, str], str]:
    return {
        (at.kind.name, at.node.fit.method if at.kind is EVALUATE else at.node.id.split("/")[-1].split("-")[0]): at.state
        for at in node_states(table)
        if at.kind not in (FETCH, PREPARE)
    }


def test_every_state_is_told(begun: RunTable, capsys: pytest.CaptureFixture[str]) -> None:
    running = next(node for node in begun.evaluations.values() if node.fit.method == "lofit")
    with only_writer(begun.folder(running)):
        assert states(begun) == {
            ("localize", "lofit"): "done",
            ("fit", "lofit"): "done",
            ("fit", "lora"): "failed",
            ("evaluate", "base"): "stopped",
            ("evaluate", "lofit"): "running",
            ("evaluate", "lora"): "left",
        }
    assert states(begun)["evaluate", "lofit"] == "left"
    print_status(begun)
    said = capsys.readouterr().out
    assert "5 of 8 nodes have a result" in said
    assert re.search(r"│ tiny +│ listops │ +2 │ +1 │ +│ +1 │ +2 │", said)
    assert f"failed: fit {find(begun, 'lora').id}: loss diverged" in said
    assert re.search(r"stopped: evaluate \S+/base-\S+; its log: \S+\.log", said)


def test_a_copied_folder_tells_its_own(begun: RunTable, tmp_path: Path) -> None:
    from lofit.config.results import write_snapshot

    write_snapshot(begun.config)
    copy = Path(shutil.copytree(begun.config.results, tmp_path / "elsewhere" / "copy"))
    shutil.rmtree(copy / "localize")
    [snapshot] = copy.glob("plan/config-*.yaml")
    given = yaml.safe_load(snapshot.read_text())
    snapshot.write_text(yaml.safe_dump(given | {"reuse": ["a-store-that-stayed-behind"]}))
    assert states(read_folder(copy)) == states(begun) | {("localize", "lofit"): "left"}
    with pytest.raises(ConfigError, match="holds no plan/config-"):
        read_folder(tmp_path)


def test_time_left_is_the_estimate_corrected_by_what_was_measured(
    begun: RunTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lofit.plan.estimate import Cost

    monkeypatch.setattr("lofit.report.status.node_cost", lambda table, node: Cost(1, 0.0, 3600.0))
    found = node_states(begun)
    took = {at.kind.name: at.seconds for at in found if at.state == "done" and at.seconds}
    assert set(took) == {"localize", "fit"}
    left = hours_left(begun, found)  # three evaluations, of which none is done
    assert left == pytest.approx(3 * (sum(took.values()) / 2) / 3600)
    assert hours_left(begun, [at for at in found if at.state != "done"]) is None


# --- what is there so far


def test_what_is_there_is_drawn_and_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = {"rising": {"method": "lora"}, "falling": {"method": "lofit", "heads": {"k": [2]}}}
    experiments = {"growth": {"kind": "curve", "title": "Growth", "n_train": [4, 8], "arms": arms}, "layers": None}
    config = tiny_config(tmp_path, METHODS | {"red": None}, experiments=experiments)
    table = RunTable(parse_config(config))
    run_nodes(table, FETCH, PREPARE)
    with pytest.raises(ReportError, match="holds no scores yet"):
        of_what_is_there(table)
    run_nodes(table, LOCALIZE, FIT)
    done = {node.id: node for node in table.evaluations.values() if node.fit.method in ("base", "lora")}
    for node in done.values():
        module_of(EVALUATE).run(table, node)
    part = of_what_is_there(table)
    assert part.evaluations == done
    drawn = ("figures/main", "tables/main", "figures/costs", "tables/suite", "figures/growth")
    problems = {"figures/layers": "none of its runs is done"}
    assert {output.id: lost for output, lost in draw(part)} == dict.fromkeys(drawn) | problems
    assert not (tmp_path / "results" / "tables").exists()
    folder = tmp_path / "results" / "partial"
    assert list(pd.read_csv(folder / "tables" / "main.csv")["method"]) == ["base", "lora"]
    assert set(pd.read_csv(folder / "figures" / "growth.csv")["arm"]) == {"rising"}
    assert "(partial: 3 of 7 evaluations)" in (folder / "tables" / "main.md").read_text()
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["render", "report", "--partial"])
    assert shown.exit_code == 0, shown.output
    assert "partial: 3 of 7 evaluations. What is not there yet" in (folder / "report.html").read_text()
    summary = CliRunner().invoke(app, ["summary"])
    assert "partial: 3 of 7 evaluations" in summary.output and str(folder / "report.html") in summary.output


def test_what_an_earlier_configuration_left_is_not_shown_as_this_ones(tmp_path: Path) -> None:
    """Neither scores of other runs, nor partial tables and figures of what is no longer among them."""

    def config(method: str) -> dict[str, Any]:
        experiment = {"kind": "table", "title": "Mine", "arms": {"a": {"method": method}}}
        return tiny_config(tmp_path, {"base": None, method: None}, experiments={"mine": experiment})

    table = RunTable(parse_config(config("lora")))
    run_nodes(table, FETCH, PREPARE, FIT, EVALUATE)
    part = of_what_is_there(table)
    assert all(lost is None for _, lost in draw(part))
    assert (part.drawn / "tables" / "mine.md").is_file()
    for scores in table.parts():
        collect_results(table, scores)
    assert is_collected(table, MAIN)

    changed = RunTable(parse_config(config("red")))
    assert not is_collected(changed, MAIN)
    with pytest.raises(ReportError, match="is of another configuration"):
        compare(changed, MAIN)
    part = of_what_is_there(changed)
    assert dict((output.id, lost) for output, lost in draw(part))["tables/mine"]
    assert not (part.drawn / "tables" / "mine.md").exists()
    assert "lora" not in (part.drawn / "tables" / "main.md").read_text()
