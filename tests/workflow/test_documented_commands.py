"""Every command of the documentation is run in a copy of the repository, dry where it takes long.

Commands are the lines of shell blocks (fences without a language, or with that of a shell), and code spans, comments of
configurations, hints in the code and lines of the Makefile's help that begin with a program of ``PROGRAMS``. A program
that is not there, or a placeholder without a value, fails the tests, so a new kind of command has to be given a policy.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from lofit.cli.train import fetch
from lofit.config import load_config, parse_config
from lofit.plan.table import RunTable
from tests.checkpoint import save_checkpoint
from tests.fitted import run
from tests.shown import LINES

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
RUN, DRY, CHECKED = "run", "dry-run", "checked only"
PROGRAMS: dict[str, tuple[str, str]] = {
    "lofit": (RUN, ""),
    "snakemake": (DRY, "with --dry-run"),
    "make": (DRY, "make --dry-run"),
    "find": (RUN, ""),
    "source": (RUN, ""),
    "python": (CHECKED, "takes minutes; the module and its options are looked up"),
    "pip": (CHECKED, "installs from the network"),
    "pip-audit": (CHECKED, "asks a service on the network"),
    "conda": (CHECKED, "installs from the network"),
    "docker": (CHECKED, "needs a daemon and the network"),
    "git": (CHECKED, "needs the network or a clone"),
    "scontrol": (CHECKED, "needs SLURM"),
    "sbatch": (CHECKED, "needs SLURM"),
    "grep": (RUN, ""),
    "head": (RUN, ""),
    "export": (RUN, ""),
    "mkdir": (CHECKED, "tests/users runs tutorials as a whole"),
    "cd": (CHECKED, "tests/users runs tutorials as a whole"),
    "sed": (CHECKED, "tests/users runs tutorials as a whole"),
    "lm_eval": (CHECKED, "needs a model; tests/unit/test_export.py loads what is exported with it"),
    "llama-cli": (CHECKED, "not installed; tests/unit/interventions/test_steering.py adds vectors as it does"),
}
"""Program to what is done with its commands, and why they are not run as they stand."""
HELP = {
    "generate": "tests/users runs it",
    "push": "tests/unit/test_export.py uploads to a stand-in",
    "run": "tests/unit/test_study.py and tests/users run it",
    "site": "tests/unit/report/test_page.py runs it on two studies",
    "show": "tests/unit/report/test_page.py runs it on a table of its own",
    "train": "tests/workflow/test_train.py runs it whole",
    "mark-failed": "tests/faults/test_mark_failed.py runs it whole",
    "store": "tests/unit/test_store.py and tests/workflow/test_workflow.py run its verbs whole",
}
"""Verbs of `lofit` that are run with --help, which checks the names of options, and why."""
STAND_ALONE = ("plan", "schema")
"""Verbs that are run where they stand without arguments too."""
ABSENT = {
    "--executor kubernetes": "the plugin is not among what is installed; docs/cluster.md says it does not work yet"
}
"""Parts of commands that cannot be run here, and why."""
AS_IT_IS = r"^snakemake .*--(unlock|report)\b"
SHELLS = ("", "sh", "bash", "shell", "console")
NEEDS_RESULTS = r"lofit (summary|render|compare|export|lens)|snakemake .*--report|^find "
TRAINING = {"epochs": 1, "lr": 0.01}
PARTS = (
    "Dockerfile", "Makefile", "Snakefile", "perf", "config", "config.yaml", "docs", "environment.yml", "examples",
    "lofit", "pyproject.toml", "requirements", "scripts", "tests", "workflow",
)  # fmt: skip


def _spans(text: str) -> list[str]:
    """Code spans that are commands: a program of ours with arguments, or anything with an option."""
    found = [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    return [span for span in found if _is_command(span)]


def _is_command(span: str) -> bool:
    first, *rest = span.split()
    return bool(rest or span == "make") and (
        first in PROGRAMS or bool(re.fullmatch(r"[a-z][a-z-]+ .*?--?[a-z].*", span))
    )


def documented() -> list[tuple[str, str]]:
    """Every command, with the file that it stands in."""
    found: list[tuple[str, str]] = []
    pages = [page for part in ("*.md", "docs/**/*.md", "examples/**/*.md", "lofit/**/*.md", "perf/*.md",
             "results/*.md", "config/**/*.md") for page in sorted(REPOSITORY.glob(part))]  # fmt: skip
    fence = re.compile(r"^ *```([^`\n]*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
    for page in pages:
        text, name = page.read_text(encoding="utf-8"), str(page.relative_to(REPOSITORY))
        for language, body in fence.findall(text):
            lines = re.sub(r"\\\n\s*", "", body).splitlines() if language in SHELLS else []
            uncommented = [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]
            found += [(name, line) for line in uncommented if line]
        found += [(name, span) for span in _spans(fence.sub("", text))]
    for file in [REPOSITORY / "config.yaml", *sorted((REPOSITORY / "config").glob("*.yaml"))]:
        comments = " ".join(re.findall(r"^# ?(.*)", file.read_text(encoding="utf-8"), re.MULTILINE))
        found += [(str(file.relative_to(REPOSITORY)), span) for span in _spans(comments)]
    for file in sorted((REPOSITORY / "lofit").rglob("*.py")):
        hints = re.findall(r"(?<!`)`((?:lofit|snakemake|make) [^`{}\n]+)`(?!`)", file.read_text(encoding="utf-8"))
        found += [(str(file.relative_to(REPOSITORY)), hint) for hint in hints]
    page = (REPOSITORY / "lofit" / "report" / "page.html.j2").read_text(encoding="utf-8")
    found += [("lofit/report/page.html.j2", line) for line in re.findall(r"<pre>((?:lofit|snakemake) .*)</pre>", page)]
    usage = (REPOSITORY / "Makefile").read_text(encoding="utf-8").split("\n\n")[0]
    return found + [("Makefile", target) for target in re.findall(r"\bmake [a-z-]+", usage)]


FOUND = documented()
COMMANDS = list(dict.fromkeys(command for _, command in FOUND))


def programs(command: str) -> list[str]:
    """The programs that a command line starts."""
    parts = re.split(r"&&|\|\||[|;]", command)
    return [next(word for word in shlex.split(part) if not re.match(r"\w+=", word)) for part in parts]


def policy(command: str) -> tuple[str, str]:
    """What is done with a command, and why it is not run as it stands."""
    for part, why in ABSENT.items():
        if part in command:
            return CHECKED, why
    if verb := _mentioned(command):
        return DRY, f"with --help; {HELP.get(verb.split()[0], 'a mention of the verb')}"
    unknown = [name for name in programs(command) if name not in PROGRAMS]
    assert not unknown, f"say in PROGRAMS what is to be done with `{command}` ({unknown[0]})"
    if re.search(AS_IT_IS, command):
        return RUN, ""
    policies = [PROGRAMS[name] for name in programs(command)]
    return next((found for how in (CHECKED, DRY) for found in policies if found[0] == how), (RUN, ""))


def _mentioned(command: str) -> str | None:
    """The verb of `lofit` of which a command line is read, not run: it is long, or stands without its arguments."""
    words = shlex.split(command)
    if words[0] != "lofit" or len(words) < 2 or words[1].startswith("-"):
        return None
    if words[1] == "store":
        return " ".join(words[1:3])
    return words[1] if words[1] in HELP or (len(words) == 2 and words[1] not in STAND_ALONE) else None


def _copy(folder: Path) -> Path:
    for part in PARTS:
        source = REPOSITORY / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
        else:
            shutil.copy(source, folder / part)
    (folder / "profiles").symlink_to("workflow/profiles")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()  # what `make setup` makes
    return folder


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs that stand in for others while a command is run as it is written."""
    folder = tmp_path_factory.mktemp("tools")
    python = shlex.quote(sys.executable)
    scripts = {
        "snakemake": 'case " $* " in *" --unlock "*|*" --report "*) ;; *) set -- "$@" --dry-run --quiet ;; esac\n'
        f'exec {python} -m snakemake "$@"',
        "lofit": f'exec {python} -m lofit "$@"',
        "make": f'exec {shutil.which("make")} --dry-run "$@"',
        "squeue": "",  # an empty queue
    }
    for name, body in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy before the first run, with a configuration of the user's own.

    The largest is cut down to its main table, which changes no command; tests/workflow/test_workflow.py plans it whole.
    """
    folder = _copy(tmp_path_factory.mktemp("fresh"))
    largest = folder / "config" / "paper.yaml"
    config = yaml.safe_load(largest.read_text(encoding="utf-8"))
    left = {key: value for key, value in config.items() if key not in ("experiments", "retention", "transfer")}
    largest.write_text(yaml.safe_dump(left), encoding="utf-8")
    for own in ("config/my.yaml", "again.yaml"):
        shutil.copy(folder / "config.yaml", folder / own)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunTable]:
    """A copy in which all configurations are one that has been run, with the experiments and arms that they compare."""
    folder = _copy(tmp_path_factory.mktemp("finished"))
    source = {"kind": "local", "path": str(save_checkpoint(folder / "checkpoint"))}
    arms = {"lofit": {"method": "lofit", "heads": {"k": [3], "params": TRAINING}, "params": TRAINING}}
    config: dict[str, Any] = {
        "models": ["tiny"],
        "model_sources": {"tiny": {"source": source, "n_layers": 3, "n_heads": 4}},
        "tasks": {"listops": {"options": {"n_train": 8, "n_validation": 4, "n_test": 6}}},
        "methods": {"base": None, "lofit": {key: arms["lofit"][key] for key in ("heads", "params")}},
        "experiments": {},
        "device": "cpu",
        "progress": False,
    }
    shutil.copy(folder / "config" / "laptop.yaml", folder / "config" / "their.yaml")
    for name, file in re.findall(r"^lofit compare (\S+) .*--configfile (\S+)", "\n".join(COMMANDS), re.MULTILINE):
        labels = load_config(folder / file).experiment(name).arms
        made = {label: {"method": "base"} if n == 0 else arms["lofit"] for n, label in enumerate(labels)}
        config["experiments"][name] = {"kind": "table", "arms": made}
    for file in [folder / "config.yaml", folder / "config" / "my.yaml", *(folder / "config").glob("*.yaml")]:
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
    before = Path.cwd()
    os.chdir(folder)  # results and resources are named from here, as by a user
    try:
        table = RunTable(parse_config(config))
        fetch(table)
        run(table)
    finally:
        os.chdir(before)
    return folder, table


def execute(command: str, folder: Path, tools: Path) -> str:
    """Run a command line as it is written, and return what it prints."""
    env = os.environ | {
        "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }
    env.pop("LOFIT_CONFIG", None)
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{(done.stdout + done.stderr)[-3000:]}"
    return done.stdout


def check(command: str, tools: Path) -> None:
    """Look up what a command that cannot be run names: files, extras, modules with their options, the image."""
    subprocess.run(["bash", "-n", "-c", command], check=True)
    for file in re.findall(r" (?:-f|-r|-e|--requirement) '?([^\s'[]+)", command):
        assert (REPOSITORY / file).exists(), file
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(re.findall(r"(?:lofit|\.)\[(\w+)\]", command)) <= set(project["optional-dependencies"])
    for module, options in re.findall(r"python -m (\S+)(.*)", command):
        spec = importlib.util.find_spec(module)
        assert spec and spec.origin, module
        assert all(f'"{option}"' in Path(spec.origin).read_text() for option in re.findall(r"--\S+", options)), command


@pytest.mark.parametrize("command", COMMANDS)
def test_it_works(command: str, tools: Path, fresh: Path, request: pytest.FixtureRequest) -> None:
    how, _ = policy(command)
    if verb := _mentioned(command):
        usage = execute(f"lofit {verb} --help", fresh, tools)
        assert [
            option for option in re.findall(r" (--[a-z-]+)", command.partition(" -- ")[0]) if option not in usage
        ] == []
    elif how == CHECKED:
        check(command, tools)
        if image := re.match(r"docker run .* lofit (-.*)", command):  # whose entry point is snakemake
            execute(f"snakemake {image[1].replace('/lofit/', '')}", fresh, tools)
    elif re.search(NEEDS_RESULTS, command):
        folder, table = request.getfixturevalue("finished")
        fitted = next(name for name, node in table.fits.items() if node.method == "lofit")
        execute(command.replace("<run>", shlex.quote(fitted)), folder, tools)
    else:
        execute(command, fresh, tools)


def test_the_summary_ends_with_a_command_that_works_as_it_is_pasted(
    finished: tuple[Path, RunTable], tools: Path
) -> None:
    folder, _ = finished
    name = "my [red] $config :x:.yaml"
    shutil.copy(folder / "config.yaml", folder / name)
    printed = execute(f"lofit summary --configfile {shlex.quote(name)}", folder, tools)
    commands = re.findall(r"\n  (.*)", printed.partition("Next:")[2])
    assert [shlex.split(command)[-1] for command in commands] == [name, name]
    for command in commands:
        execute(command, folder, tools)


def test_make_takes_an_output_after_its_options(fresh: Path, tools: Path) -> None:
    arguments = "DATA_MIRROR=data SNAKEMAKE_ARGS=results/tables/main.md CONFIG=config/my.yaml"
    shown = execute(f"make demo {arguments}", fresh, tools)
    [printed] = re.findall(r"(snakemake --logger lofit --configfile (?:.*\\\n)*.*)", shown)
    execute(printed, fresh, tools)


def test_no_command_hands_its_target_to_an_option_before_it() -> None:
    """What follows --configfile, --config and others of several values is theirs, up to the next option."""
    for file, command in FOUND:
        for values in re.findall(r"--configfile ((?:[^-\s]\S* ?)+)", command):
            assert len(values.split()) == 1, f"{file}: {command}"


def test_a_program_without_a_policy_is_refused() -> None:
    assert _spans("A `wondrous-tool --fast file`, `--option`, `a b`, and `lofit`.") == ["wondrous-tool --fast file"]
    with pytest.raises(AssertionError, match=r"say in PROGRAMS what is to be done with `wondrous-tool --fast file`"):
        policy("wondrous-tool --fast file")


def test_all_are_counted() -> None:
    counts = Counter(policy(command)[0] for command in COMMANDS)
    assert counts[RUN] and counts[DRY] and counts[CHECKED]
    assert sum(counts.values()) == len(COMMANDS)
    LINES["documented commands"] += [
        f"{len(FOUND)} in {len({file for file, _ in FOUND})} files, {len(COMMANDS)} different: "
        + ", ".join(f"{count} {how}" for how, count in counts.items()),
        *(f"{policy(command)[0]}: {command} ({policy(command)[1]})" for command in COMMANDS if policy(command)[1]),
    ]
