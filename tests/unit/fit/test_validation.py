"""What fits measure on the validation rows: the loss, the task's own metric, and which pairs are in the right order."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lofit.config import parse_config
from lofit.errors import ConfigError, FitError
from lofit.evaluation.harness import evaluate
from lofit.files import read_json, write_jsonl
from lofit.methods import load_method
from lofit.models.adapters import load_fitted
from lofit.models.loading import load_tokenizer
from lofit.models.session import Session
from lofit.nodes.fit import summary_line
from lofit.plan.nodes import FitNode
from lofit.plan.table import RunTable
from lofit.spec.hyperparameters import ComputeParams
from lofit.training.trainer import Fitted
from tests.fitted import find, fitted_table, tiny_config
from tests.sessions import PAIRS, Killed, fit_context, interrupt, session

METHODS: dict[str, Any] = {
    "base": None,
    "lofit": {"heads": {"k": [4], "params": {"lr": 0.05, "epochs": 1}}, "params": {"lr": 0.3, "epochs": 2}},
    "lora": {"params": {"lr": 0.05, "epochs": 2, "dropout": 0.3}},
    "full": {"params": {"lr": 0.01, "epochs": 1}},
    "iti": {"heads": {"k": [2]}, "params": {"alpha": [2.0]}},
}


def write_rows(folder: Path) -> Path:
    """Preference pairs and choices of which about half are right by chance."""
    words = ("red", "blue", "green", "grey", "pink", "black")
    for kind in ("choose", "prefer"):
        (folder / kind).mkdir(parents=True)
        for split, start, n in (("train", 0, 12), ("validation", 100, 16), ("test", 200, 6)):
            rows = []
            for i in range(start, start + n):
                right, wrong = words[i * 7 % 6], words[(i * 5 + 1 + i // 6) % 6]
                wrong = wrong if wrong != right else words[(i * 7 + 1) % 6]
                choices = {"choices": [wrong, right], "gold": 1}
                pair = {"chosen": right, "rejected": wrong}
                rows.append({"prompt": f"Thing {i * i % 97} number {i} is"} | (choices if kind == "choose" else pair))
            write_jsonl(folder / kind / f"{split}.jsonl", rows)
    return folder


def made(folder: Path, **training: Any) -> RunTable:
    rows = write_rows(folder / "rows")
    tasks = {kind: {"path": str(rows / kind)} for kind in ("choose", "prefer")}
    return fitted_table(tiny_config(folder, METHODS, tasks=tasks, training=training, select_by="loss"))


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> RunTable:
    return made(tmp_path_factory.mktemp("scored"), validate_by="metric")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunTable:
    return made(tmp_path_factory.mktemp("plain"))


def reports(table: RunTable) -> dict[tuple[str, str], tuple[FitNode, dict[str, Any]]]:
    found = {}
    for node in table.fitted.values():
        found[node.method, node.data.task] = node, read_json(table.folder(node) / "fit.json")
    return found


def test_the_metric_is_that_of_the_scorer_on_the_validation_rows(scored: RunTable) -> None:
    for (method, _), (node, report) in reports(scored).items():
        assert report["status"] == "ok"
        assert report["metric"] == "acc"
        assert len(report["validation_metric"]) == len(report["validation_loss"])
        task, rows = scored.config.task(node.data.task), scored.folder(node.data) / "validation.jsonl"
        model_dir = scored.model_dir("tiny")
        for adapter, value in ((None, 0), (scored.folder(node) / "adapter", -1)):
            model = load_fitted(model_dir, adapter, torch.device("cpu"), torch.float32)
            scores, _ = evaluate(model, load_tokenizer(model_dir), task, rows, batch_size=16)
            if adapter or method != "lofit":  # whose offsets begin with noise
                assert report["validation_metric"][value] == scores["metrics"]["acc"]["value"]
    assert len({report["validation_metric"][-1] for _, report in reports(scored).values()}) > 2


def test_measuring_changes_nothing_that_is_fitted(scored: RunTable, plain: RunTable) -> None:
    with_metric, without = reports(scored), reports(plain)
    assert with_metric.keys() == without.keys()
    for key, (node, report) in without.items():
        other, measured = with_metric[key]
        assert "validation_metric" not in report
        assert "metric" not in report
        assert report["sha256"] == measured["sha256"]
        assert report["validation_loss"] == measured["validation_loss"]
        assert report.get("train_loss") == measured.get("train_loss")
        assert node.id.rpartition("-")[0] == other.id.rpartition("-")[0]


def test_rankings_are_not_measured(scored: RunTable) -> None:
    for node in scored.localize.values():
        report = read_json(scored.folder(node) / "localize.json")
        assert "validation_metric" not in report
        assert report.get("validation_loss", [None]).count(None) == len(report.get("validation_loss", [None]))


def test_the_log_has_the_metric_beside_the_loss(scored: RunTable, plain: RunTable) -> None:
    line = summary_line(scored.folder(find(scored, "lora")))
    assert line.startswith("validation loss ")
    assert "; acc 0." in line
    assert "acc" not in summary_line(plain.folder(find(plain, "lora")))
    node, report = reports(plain)["lora", "prefer"]
    first, last = (report["validation_preference_accuracy"][at] for at in (0, -1))
    assert f"; preference accuracy {first:.3f} -> {last:.3f}; " in summary_line(plain.folder(node))


def test_preference_accuracy_is_the_share_of_pairs_that_moved_the_right_way() -> None:
    def margin(model: Any, row: dict[str, Any]) -> float:
        sums = []
        for name in ("chosen", "rejected"):
            text = row["train_prompt"] + row[name]
            ids = session().tokenizer(text)["input_ids"]
            start = len(session().tokenizer(row["train_prompt"])["input_ids"])
            with torch.no_grad():
                scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            sums.append(sum(scores[at - 1, ids[at]].item() for at in range(start, len(ids))))
        return sums[0] - sums[1]

    method = load_method("full")
    assert method.fit is not None
    opened = session(objective="dpo", train=PAIRS[:2], validation=PAIRS)
    base = session().model
    for epochs, lr in ((1, 1e-5), (3, 0.02)):
        opened = session(objective="dpo", train=PAIRS[:2], validation=PAIRS)
        fitted = method.fit(fit_context(opened), method.Params(lr=lr, epochs=epochs))
        moved = [margin(fitted.model, row) > margin(base, row) for row in PAIRS]
        assert fitted.record["validation_preference_accuracy"][-1] == pytest.approx(sum(moved) / len(PAIRS))
    assert fitted.record["validation_preference_accuracy"][0] == 0, "nothing has moved yet"
    assert "validation_preference_accuracy" not in method.fit(fit_context(session()), method.Params(lr=lr)).record


def fit_best(method: str, metrics: list[float], folder: Path | None = None, **changes: Any) -> tuple[Any, Any]:
    """A fit that keeps the best epoch by made-up metrics; returned with the trained values at each of them."""
    seen: list[list[torch.Tensor]] = []
    given = iter(metrics)

    def metric(model: Any, tokenizer: Any) -> float:
        seen.append([p.detach().clone() for p in model.parameters() if p.requires_grad])
        return next(given)

    found = load_method(method)
    assert found.fit is not None
    opened = session(save_to=folder, compute=ComputeParams(save_minutes=0), **changes)
    if method == "full":
        opened.model.to(torch.bfloat16)  # with float32 copies that the optimizer updates
    bench = fit_context(opened)
    bench.metric = metric if metrics else None
    epochs = len(metrics) - 1 if metrics else 4
    params = found.Params(lr=0.02, epochs=epochs, batch_size=4, keep="best")
    return found.fit(bench, params), seen


def values(model: Any) -> list[torch.Tensor]:
    return [p.detach() for name, p in model.named_parameters() if "lora_" in name or not hasattr(model, "peft_config")]


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize(
    ("metrics", "best"),
    [([0.9, 0.1, 0.8, 0.3], 2), ([0.0, 0.7, 0.2, 0.7], 3), ([0.0, 0.1, 0.2, 0.3], 3), ([0.5, 0.4, 0.4, 0.1], 2)],
)
def test_the_epoch_with_the_best_metric_is_kept_and_of_equal_ones_that_with_the_lowest_loss(
    method: str, metrics: list[float], best: int
) -> None:
    fitted, seen = fit_best(method, metrics)
    losses = fitted.record["validation_loss"]
    assert all(losses[at] > losses[at + 1] for at in range(3)), "as the expected epochs suppose"
    assert fitted.record["kept_epoch"] == best
    assert fitted.record["validation_metric"] == metrics
    assert all(torch.equal(a, b) for a, b in zip(values(fitted.model), seen[best], strict=True))
    assert best == 3 or not all(torch.equal(a, b) for a, b in zip(seen[best], seen[3], strict=True))


def test_without_a_metric_the_lowest_loss_is_kept() -> None:
    fitted, _ = fit_best("lora", [])
    losses = fitted.record["validation_loss"]
    assert fitted.record["kept_epoch"] == losses.index(min(losses[1:]))
    assert "validation_metric" not in fitted.record


def test_there_is_no_best_epoch_without_validation_rows() -> None:
    with pytest.raises(FitError, match="raise n_validation"):
        fit_best("lora", [0.1, 0.2], validation=[])


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("after", [1, 2, 3, 4, 5, 6])
def test_the_best_epoch_outlives_a_kill(
    method: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = [0.0, 0.6, 0.2, 0.4]
    plain, _ = fit_best(method, metrics)
    with monkeypatch.context() as patched:
        interrupt(patched, after)
        with pytest.raises(Killed):
            fit_best(method, metrics, tmp_path / "s")
    known = (after + 1) // 2  # two steps an epoch; what was measured before the last save is not measured again
    iterator = iter(metrics[known:])
    found = load_method(method)
    assert found.fit is not None
    opened = session(save_to=tmp_path / "s", compute=ComputeParams(save_minutes=0))
    if method == "full":
        opened.model.to(torch.bfloat16)
    bench = fit_context(opened)
    bench.metric = lambda model, tokenizer: next(iterator)
    resumed = found.fit(bench, found.Params(lr=0.02, epochs=3, batch_size=4, keep="best"))
    assert resumed.record["kept_epoch"] == plain.record["kept_epoch"] == 1
    assert resumed.record["validation_metric"] == metrics
    assert all(torch.equal(a, b) for a, b in zip(values(plain.model), values(resumed.model), strict=True))
    assert next(iterator, None) is None


def test_what_is_kept_is_part_of_a_run_and_no_part_of_a_ranking(tmp_path: Path) -> None:
    """`keep: best` has the metric computed, and what was kept is what is scored."""
    rows = write_rows(tmp_path / "rows")
    given = {"heads": {"k": [4], "params": {"lr": 0.05, "epochs": 1}}, "params": {"lr": 0.3, "epochs": 3}}
    config = {"tasks": {"choose": {"path": str(rows / "choose")}}}
    shared = [{"set": {"keep": "best"}}]
    table = fitted_table(tiny_config(tmp_path, {"base": None, "lofit": given}, shared_params=shared, **config))
    last = RunTable(parse_config(tiny_config(tmp_path, {"base": None, "lofit": given}, **config)))
    assert list(last.localize) == list(table.localize)
    assert find(last, "lofit").id != find(table, "lofit").id
    node = find(table, "lofit")
    report = read_json(table.folder(node) / "fit.json")
    assert 1 <= report["kept_epoch"] <= 3
    assert report["validation_metric"][report["kept_epoch"]] == max(report["validation_metric"][1:])
    model = load_fitted(table.model_dir("tiny"), table.folder(node) / "adapter", torch.device("cpu"), torch.float32)
    task, held_out = table.config.task("choose"), table.folder(node.data) / "validation.jsonl"
    scores, _ = evaluate(model, load_tokenizer(table.model_dir("tiny")), task, held_out, batch_size=16)
    assert scores["metrics"]["acc"]["value"] == report["validation_metric"][report["kept_epoch"]]
    given["heads"]["params"]["keep"] = "best"
    with pytest.raises(ConfigError, match=r"methods.lofit.heads.params.keep"):
        parse_config(tiny_config(tmp_path, {"base": None, "lofit": given}, **config))


@pytest.mark.parametrize("after", [1, 3, 6])
def test_an_interrupted_fit_has_the_same_scores_and_does_not_score_again(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[float] = []

    def fit(save_to: Path | None) -> Fitted:
        def metric(model: Any, tokenizer: Any) -> float:
            total = sum(float(p.detach().double().abs().sum()) for p in model.parameters() if p.requires_grad)
            scored.append(math.modf(total)[0])
            return scored[-1]

        method = load_method("lora")
        assert method.fit is not None
        opened: Session = session(save_to=save_to, compute=ComputeParams(save_minutes=0, validate_by="metric"))
        bench = fit_context(opened)
        bench.metric = metric
        return method.fit(bench, method.Params(lr=0.02, epochs=4, batch_size=4, dropout=0.3))

    plain = fit(None)
    assert plain.record["validation_metric"] == scored
    assert len(set(scored)) == 5
    scored.clear()
    with monkeypatch.context() as patched:
        interrupt(patched, after)
        with pytest.raises(Killed):
            fit(tmp_path / "s")
    resumed = fit(tmp_path / "s")
    assert resumed.record["validation_metric"] == plain.record["validation_metric"]
    assert len(scored) == 5
