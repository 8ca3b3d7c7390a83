"""How strong the tests are: known faults, planted one at a time in a copy of the source tree, and what finds them.

    python -m tests.mutants                        # plant all, count those that the tests kill
    python -m tests.mutants --list
    python -m tests.mutants --only "lock not taken"

Every mutant is silent: it crashes nothing, but gives a wrong number or breaks a promise. It is killed if a test fails.
Tried first are the tests of that part of the code; a mutant that they let live has to pass all that ``make test`` runs,
and with ``--all`` what ``make test-all`` runs. A survivor is a test that is missing. At the end the tests that killed
are run without a mutant: one that fails then has killed nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
OWN_TEST = "tests/unit/test_mutants.py"
"""It compares the mutants with the source, so it would fail of every one that is planted."""
FIRST_LIMIT, WHOLE_LIMIT = 600, 7200
"""Seconds after which the tests that are tried first, or all tests, count as hung."""


@dataclass(frozen=True)
class Mutant:
    """A fault of one place in the source.

    Attributes:
        name: what is wrong.
        file: where, relative to the repository.
        old: the text that stands there, once.
        new: what is put in its place.
        first: the tests that are tried first, relative to the repository.
    """

    name: str
    file: str
    old: str
    new: str
    first: str


MUTANTS = (
    Mutant(
        "scale dropped from a merge",
        "lofit/interventions/tuner/layer.py",
        "(before.to(wide) * scale).to(weight.dtype)",
        "before.to(wide).to(weight.dtype)",
        "tests/unit/interventions/test_merge.py",
    ),
    Mutant(
        "the next head is edited",
        "lofit/interventions/tuner/layer.py",
        "torch.tensor(groups, dtype=torch.int64, device=device)",
        "(torch.tensor(groups, dtype=torch.int64, device=device) + 1) % site.groups",
        "tests/unit/interventions/test_edit.py",
    ),
    Mutant(
        "ranking of heads reversed",
        "lofit/rankings/ranking.py",
        "np.lexsort((-second.ravel(), -flat))",
        "np.lexsort((-second.ravel(), flat))",
        "tests/unit/localize/test_ranking.py",
    ),
    Mutant(
        "scaling factors trained beside the offsets",
        "lofit/methods/lofit.py",
        "scale=False, offset=True",
        "scale=True, offset=True",
        "tests/unit/methods/test_trained.py",
    ),
    Mutant(
        "loss over the prompt too",
        "lofit/models/encoding.py",
        "return Example(tuple(ids), start)",
        "return Example(tuple(ids), 1)",
        "tests/unit/fit/test_encoding.py",
    ),
    Mutant(
        "no warm-up of the learning rate",
        "lofit/training/loop.py",
        "warmup = round(params.warmup * steps)",
        "warmup = 0",
        "tests/unit/fit/test_trainer.py",
    ),
    Mutant(
        "optimizer's state lost on resuming",
        "lofit/training/savepoint.py",
        'optimizer.load_state_dict({"state": state, ',
        'optimizer.load_state_dict({"state": {}, ',
        "tests/unit/fit/test_savepoint.py",
    ),
    Mutant(
        "spread left out of ITI's shift",
        "lofit/methods/iti.py",
        "shifts = sigma[:, None] * directions",
        "shifts = directions",
        "tests/unit/methods/test_estimated.py",
    ),
    Mutant(
        "sign of a reading vector left to chance",
        "lofit/activations/reading.py",
        "return component if (projected > 0).sum() >= (projected < 0).sum() else -component",
        "return component",
        "tests/unit/activations/test_reading.py",
    ),
    Mutant(
        "positions begin anew after a cached beginning",
        "lofit/packing/trie.py",
        "depths.append(depth)",
        "depths.append(depth - prefix)",
        "tests/unit/evaluate/test_scoring.py",
    ),
    Mutant(
        "positions begin anew behind virtual tokens",
        "lofit/packing/forward.py",
        'inputs["position_ids"] = positions + n',
        'inputs["position_ids"] = positions',
        "tests/unit/packing/test_virtual_tokens.py",
    ),
    Mutant(
        "any correct answer wins MC1",
        "lofit/tasks/truthfulqa/utils.py",
        "wins([scores[0], *wrong], [True, *(False for _ in wrong)])",
        "wins(scores, [bool(label) for label in labels])",
        "tests/unit/tasks/test_truthfulqa.py",
    ),
    Mutant(
        "scored on the fold that heads were not ranked on",
        "lofit/plan/table.py",
        "if not ranked or fold == ranked.fold:",
        "if not ranked or fold != ranked.fold:",
        "tests/unit/test_plan.py",
    ),
    Mutant(
        "test questions left in the training set",
        "lofit/tasks/splits.py",
        "splits.train, [*splits.validation, *splits.test])",
        "splits.train, splits.validation)",
        "tests/unit/tasks/test_registry.py",
    ),
    Mutant(
        "altered adapter scored",
        "lofit/nodes/evaluate.py",
        'verify(table.folder(fit) / "adapter", status.get("sha256"))',
        "verify(table.folder(fit), None)",
        "tests/unit/fit/test_saved.py",
    ),
    Mutant(
        "lock not taken",
        "lofit/files.py",
        "fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        "tests/unit/test_files.py",
    ),
    Mutant(
        "half-written file kept",
        "lofit/files.py",
        "        except OSError as error:\n            if error.errno and error.filename is None:",
        "        except BaseException as error:\n            os.replace(part, target)\n"
        "            if isinstance(error, OSError) and error.errno and error.filename is None:",
        "tests/unit/test_files.py",
    ),
    Mutant(
        "failed run left out of the results",
        "lofit/report/collect.py",
        'return [base | {"status": f"failed: {reason}"}]',
        "return []",
        "tests/unit/report/test_collect.py",
    ),
    Mutant(
        "interval over items instead of clusters",
        "lofit/stats/samples.py",
        'values.groupby(level="cluster", sort=True)',
        'values.groupby(level="item", sort=True)',
        "tests/unit/report/test_significance.py",
    ),
    Mutant(
        "Holm's correction left out",
        "lofit/report/significance.py",
        "p_values = holm([difference_p(paired_sample(tables[one], tables[other])) for one, other in pairs])",
        "p_values = [difference_p(paired_sample(tables[one], tables[other])) for one, other in pairs]",
        "tests/unit/report/test_significance.py",
    ),
    Mutant(
        "other seeds left out of the variance",
        "lofit/stats/samples.py",
        "(found := sum(self.parts))",
        "(found := self.parts[0])",
        "tests/unit/report/test_significance.py",
    ),
    Mutant(
        "axes of the transfer map swapped",
        "lofit/report/transfer.py",
        "cells.get((head_task, task), ",
        "cells.get((task, head_task), ",
        "tests/unit/report/test_transfer.py",
    ),
    Mutant(
        "published value of another model",
        "lofit/plan/published.py",
        "if fit.model == row.model and (not row.tasks",
        "if (not row.tasks",
        "tests/unit/report/test_expected.py",
    ),
)


class Tree:
    """A copy of the source tree, uncommitted changes included, in which the tests can be run."""

    def __init__(self, folder: Path, repository: Path = REPOSITORY) -> None:
        """Copy what git knows or would add.

        Args:
            folder: where to; new.
            repository: the root of a checkout.
        """
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
        for name in filter(None, listed.split("\0")):
            if (repository / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(repository / name, folder / name)
        self.folder = folder
        # An installed lofit is the one of the checkout: the copy goes before it, in processes that tests start too.
        # No bytecode: Python tells an old one by time and size, which a mutant need not change.
        self.environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        mirror = repository.parent / "shared" / "data"
        if mirror.is_dir():
            self.environment.setdefault("LOFIT_DATA_MIRROR", str(mirror))
        show = "import lofit; print(lofit.__file__)"
        imported = subprocess.run(
            [sys.executable, "-c", show], cwd="/", env=self.environment, capture_output=True, text=True, check=True
        )
        if Path(imported.stdout.strip()).resolve() != (folder / "lofit" / "__init__.py").resolve():
            raise SystemExit(f"error: {imported.stdout.strip()} is imported, not the copy of lofit in {folder}")

    @contextlib.contextmanager
    def planted(self, mutant: Mutant) -> Iterator[None]:
        """Within this, the copy has the fault."""
        file = self.folder / mutant.file
        text = file.read_text(encoding="utf-8")
        file.write_text(mutate(text, mutant), encoding="utf-8")
        try:
            yield
        finally:
            file.write_text(text, encoding="utf-8")

    def failure(self, paths: Sequence[str], options: Sequence[str], limit: float) -> str | None:
        """Run tests until one fails.

        Args:
            paths: files, folders and names of tests; none: all.
            options: of pytest.
            limit: seconds after which they count as hung.

        Returns:
            the test that failed; None if all passed.

        Raises:
            SystemExit: they could not be run.
        """
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"--deselect={OWN_TEST}"]
        process = subprocess.Popen(
            [*command, *options, *paths],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            return f"(no end within {limit:.0f} s)"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with all that the tests started
            process.wait()
        if process.returncode in (0, 5):  # 5: there is no test that is not left out
            return None
        summary = output.rpartition("short test summary info")[2]
        failed = re.search(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - .*)?$", summary, re.MULTILINE)
        if process.returncode not in (1, 2) or not failed:  # 2: stopped by a failure in one of several processes
            raise SystemExit(f"error: the tests cannot be run:\n{output[-4000:]}")
        return failed[1]


def mutate(text: str, mutant: Mutant) -> str:
    """The text of a file with the fault in it.

    Raises:
        SystemExit: the text that it replaces is not there once.
    """
    count = text.count(mutant.old)
    if count != 1:
        raise SystemExit(
            f"error: {mutant.file} holds the text that {mutant.name!r} replaces {count} times, not once: the code has "
            "moved on; renew the mutant"
        )
    return text.replace(mutant.old, mutant.new)


def killer(tree: Tree, mutant: Mutant, options: Sequence[str], processes: int) -> str | None:
    """The test that finds a mutant, and finds it again; None if none does."""
    spread = [f"--numprocesses={processes}", "--dist=loadfile", "--no-loadscope-reorder"] if processes > 1 else []
    with tree.planted(mutant):
        if found := tree.failure([mutant.first], options, FIRST_LIMIT):
            return found
        passed_over: list[str] = []
        while found := tree.failure([], [*options, *spread, *passed_over], WHOLE_LIMIT):
            if "::" not in found or tree.failure([found], options, WHOLE_LIMIT):
                return found
            # It failed of something else, such as a machine that was busy.
            passed_over.append(f"--deselect={found}")
    return None


def main() -> int:
    """Plant mutants and print what kills each of them; 1 if one lives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    parser.add_argument("--only", action="append", metavar="NAME", help="plant this one; may be given several times")
    parser.add_argument("--all", action="store_true", help="try slow tests too")
    parser.add_argument("--processes", type=int, default=1, help="to spread all tests over (default: 1)")
    arguments = parser.parse_args()
    if unknown := set(arguments.only or ()) - {mutant.name for mutant in MUTANTS}:
        parser.error(f"no mutant is called {min(unknown)!r}; --list prints them")
    chosen = [mutant for mutant in MUTANTS if not arguments.only or mutant.name in arguments.only]
    if arguments.list:
        for mutant in chosen:
            print(f"{mutant.name} ({mutant.file})")
        return 0
    options = [] if arguments.all else ["-m", "not slow"]
    with tempfile.TemporaryDirectory(prefix="lofit-mutants-") as scratch:
        tree = Tree(Path(scratch) / "tree")
        for mutant in chosen:
            mutate((tree.folder / mutant.file).read_text(encoding="utf-8"), mutant)
        killers = []
        for mutant in chosen:
            start = time.perf_counter()
            if found := killer(tree, mutant, options, arguments.processes):
                killers.append(found if "::" in found else mutant.first)
            how = "killed" if found else "LIVES "
            seconds = time.perf_counter() - start
            print(f"{how} {seconds:5.0f} s  {mutant.name}: {found or 'no test fails'}", flush=True)
        if fails := killers and tree.failure(sorted(set(killers)), options, WHOLE_LIMIT):
            raise SystemExit(f"error: {fails} fails without a mutant too, so it kills none; fix it first")
    print(f"{len(killers)} of {len(chosen)} killed")
    return 0 if len(killers) == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
