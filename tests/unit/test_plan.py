"""The run table: each node once, and ids that change exactly when results may."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lofit import registry
from lofit.config import load_config, parse_config
from lofit.config.experiments import TAKEN
from lofit.errors import ConfigError
from lofit.nodes import evaluate as evaluate_node
from lofit.nodes import fit as fit_node
from lofit.nodes import localize as localize_node
from lofit.nodes.context import save_point_file
from lofit.plan.kinds import FIT, KINDS, LOCALIZE, counts
from lofit.plan.nodes import TunedNode
from lofit.plan.ranking_pairs import setting
from lofit.plan.table import RunTable
from lofit.report.outputs import outputs

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = {
    "models": ["smollm2-135m"],
    "tasks": {"listops": {"options": {"n_train": 8}}, "siqa": None, "truthfulqa": None},
    "methods": {"base": None, "lofit": {"heads": {"k": [0.03, 0.1]}}, "lora": None},
    "seeds": [1, 2],
    "transfer": {"k": 0.1},
    "lr_grid": None,
}


def table(**changes: Any) -> RunTable:
    return RunTable(parse_config(copy.deepcopy(CONFIG) | changes))


def test_fan_out_counts() -> None:
    made = table()
    # splits: 4 (truthfulqa has two folds) x 2 seeds; base once per split, as no seed changes it
    splits = 4
    assert len(made.data) == len(made.localize) == splits * 2
    own = splits + splits * 2 * (2 + 1)
    moved = splits * 2 * 2  # heads of two other tasks for each split and seed; own heads are shared with the comparison
    assert len(made.fits) == own + moved
    assert counts(made)["fit"] == own + moved - splits


def test_transfer_shares_the_diagonal_and_matches_folds() -> None:
    made = table()
    pairs = [(n.ranking.data.task, n.ranking.data.fold, n.data.task, n.data.fold)
             for n in made.fits.values() if n.ranking and n.k == (27,) and n.seed == 1]  # fmt: skip
    assert len(pairs) == len(set(pairs)), "each pair once"
    assert ("truthfulqa", 1, "truthfulqa", 1) in pairs
    assert ("truthfulqa", 1, "truthfulqa", 0) not in pairs
    assert ("listops", 0, "truthfulqa", 1) in pairs
    assert ("truthfulqa", 0, "listops", 0) in pairs
    assert ("truthfulqa", 1, "listops", 0) not in pairs


def test_a_row_of_random_heads_adds_one_fit_for_each_split_and_renames_none() -> None:
    before = table()
    made = table(transfer={"k": 0.1, "random_row": True})
    assert list(table(transfer={"k": 0.1, "random_row": False}).fits) == list(before.fits)
    added = [node for node in made.fits.values() if node.id not in before.fits]
    assert before.fits.keys() < made.fits.keys()
    assert {(node.data.id, node.k) for node in added} == {(data, (27,)) for data in made.data}
    assert len(added) == len(made.data)
    assert all(node.ranking and node.ranking.localizer == "random" and node.ranking.data == node.data for node in added)
    arms = {"random": {"method": "lofit", "heads": {"k": [0.10], "localizer": "random"}}}
    both = table(transfer={"k": 0.1, "random_row": True}, experiments={"head_selection": {"arms": arms}})
    assert both.fits.keys() == made.fits.keys(), "the arm of the experiment is the same run"


def test_shared_params_hold_between_recipes_and_params() -> None:
    shared = [
        {"set": {"weight_decay": 0.01, "epochs": 4}},
        {"task": "siqa", "model": "smollm2-135m", "set": {"epochs": 3}},
    ]
    methods = copy.deepcopy(CONFIG["methods"]) | {"iti": None, "lora": {"params": {"epochs": 2}}}
    made = table(shared_params=shared, methods=methods)
    for node in made.fits.values():
        params = node.params.model_dump()
        if node.method == "lofit":
            assert (params["epochs"], params["weight_decay"]) == (3 if node.data.task == "siqa" else 4, 0.01)
            assert node.ranking and node.ranking.params.model_dump().items() >= {"weight_decay": 0.01}.items()
        elif node.method == "lora":
            assert (params["epochs"], params["weight_decay"]) == (2, 0.01)
        else:
            assert not {"epochs", "weight_decay"} & params.keys()
    assert setting(made, next(node for node in made.localize.values() if node.localizer == "lofit")) == "lofit"


def test_a_model_may_have_a_precision_of_its_own() -> None:
    made = table(models=["smollm2-135m", "llama-2-7b"], model_dtypes={"llama-2-7b": "bfloat16"}, device="cpu")
    assert {(node.model, node.dtype) for node in made.fits.values()} == {
        ("smollm2-135m", "float32"),
        ("llama-2-7b", "bfloat16"),
    }


def changed(before: RunTable, after: RunTable) -> set[str]:
    return {node.method for node in after.fits.values() if node.id not in before.fits}


def test_a_changed_hyperparameter_renames_only_its_method() -> None:
    methods = copy.deepcopy(CONFIG["methods"])
    methods["lora"] = {"params": {"lr": 0.5}}
    assert changed(table(), table(methods=methods)) == {"lora"}
    methods = copy.deepcopy(CONFIG["methods"])
    methods["lofit"]["heads"]["params"] = {"l1": 0.5}
    after = table(methods=methods)
    assert changed(table(), after) == {"lofit"}
    assert not set(after.localize) & set(table().localize)


def test_paths_and_batch_size_of_evaluation_do_not_rename() -> None:
    assert set(table(results="elsewhere", eval_batch_size=3, threads=7).fits) == set(table().fits)


def triggers(made: RunTable) -> list[str]:
    return [repr(kind.triggers(made, node)) for kind in KINDS for node in kind.nodes(made).values()]


def test_ids_and_triggers_are_the_same_in_every_process() -> None:
    script = (
        "import json; from tests.unit.test_plan import *; print(json.dumps([list(table().fits), triggers(table())]))"
    )
    found = []
    for salt in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": salt}
        result = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True, cwd=ROOT
        )
        found.append(json.loads(result.stdout))
    assert found[0] == found[1] == [list(table().fits), triggers(table())]


def test_an_edited_method_or_localizer_is_another_trigger_and_another_save_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = table()
    lofit = next(node for node in made.fits.values() if node.method == "lofit")
    assert lofit.ranking

    def told() -> list[Any]:
        for known in (registry.source_hash, registry._file):
            known.cache_clear()
        seen = [FIT.triggers(made, lofit), LOCALIZE.triggers(made, lofit.ranking)]
        return [*seen, save_point_file(made, lofit, tmp_path).name]

    before = told()
    for package in ("methods", "localizers"):
        (tmp_path / package).mkdir()
        source = (ROOT / "lofit" / package / "lofit.py").read_text()
        (tmp_path / package / "lofit.py").write_text(source + "\nSTEPS = 2\n")
    monkeypatch.setattr(registry, "folders", lambda package: [tmp_path / package.rpartition(".")[2]])
    assert all(old != new for old, new in zip(before, told(), strict=True))
    monkeypatch.undo()
    assert told() == before


def test_no_experiment_may_be_called_like_another_output() -> None:
    everything = {
        "tasks": {**CONFIG["tasks"], "mquake": None},
        "protocols": ["paper", "harness", "open"],
        "retention": {"nq_open": None},
        "methods": {**CONFIG["methods"], "lora": {"search": {"params": {"lr": [1e-4, 1e-3]}}}},
    }
    made = table(**everything)
    names = {output.name for output in outputs(made) if output.module != "experiments"}
    assert {
        "main",
        "main-open",
        "suite",
        "strata",
        "search",
        "retention",
        "disturbance",
        "overlap",
        "transfer",
    } <= names
    assert names | set(made.parts()) <= set(TAKEN)


def test_unknown_node_is_named() -> None:
    made = table()
    with pytest.raises(ConfigError, match="no node 'x/y'"):
        made.find(made.fits, "x/y")


def test_recipes_give_the_papers_values_and_the_configuration_overrides_them() -> None:
    config = CONFIG | {"models": ["llama-2-13b"], "tasks": {"truthfulqa": None, "clutrr": None}, "transfer": None}
    made = RunTable(parse_config(config))
    steps = {(n.data.task): n.params for n in made.localize.values()}
    assert (steps["truthfulqa"].lr, steps["truthfulqa"].l1) == (1e-3, 1e-3)
    assert (steps["clutrr"].lr, steps["clutrr"].l1) == (1e-3, 1e-3)
    offsets = {n.data.task: n.params for n in made.fits.values() if n.method == "lofit"}
    assert (offsets["truthfulqa"].lr, offsets["clutrr"].lr) == (2e-2, 1e-2)
    methods = {"lofit": {"params": {"lr": 0.25}}}
    made = RunTable(parse_config(config | {"methods": methods}))
    assert {n.params.lr for n in made.fits.values()} == {0.25}


def test_methods_that_estimate_share_activations_and_choose_their_number_of_heads() -> None:
    methods = {"iti": {"heads": {"k": [0.03, 0.1]}}, "repe": None, "lofit": {"heads": {"localizer": "probe_layers"}}}
    made = table(methods=methods, tasks={"listops": None}, seeds=[1], transfer=None)
    assert len(made.activations) == 1
    assert sorted(node.localizer for node in made.localize.values()) == ["iti_probe", "probe_layers"]
    assert {node.method: node.k for node in made.fits.values() if node.method != "lofit"} == {
        "iti": (8, 27),
        "repe": (),
    }
    assert sorted(node.k for node in made.fits.values() if node.method == "lofit") == [(8,), (27,)]
    users = [*made.localize.values(), *made.fits.values()]
    assert sum(made.activations_of(node) is not None for node in users) == 4


def test_other_tasks_are_scored_where_it_says_something() -> None:
    """Not with prompting, which is the base model there; nor on the folds that heads were not ranked on."""
    tasks = {"listops": None, "truthfulqa": None}
    methods = {"base": None, "fewshot": None, "lofit": {"heads": {"task": "truthfulqa", "k": [3]}}}
    retention = {"truthfulqa": None, "nq_open": None}
    made = table(tasks=tasks, methods=methods, retention=retention, seeds=[1], transfer=None)
    on: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for node in made.evaluations.values():
        if not node.own:
            on.setdefault((node.fit.method, node.fit.data.task), []).append((node.data.task, node.data.fold))
    assert on["base", "listops"] == [("truthfulqa", 0), ("truthfulqa", 1), ("nq_open", 0)]
    assert ("base", "truthfulqa") not in on, "it is the same whatever others are fitted for"
    assert on["lofit", "listops"] == [("truthfulqa", 0), ("nq_open", 0)]
    assert not {method for method, _ in on} & {"fewshot"}


def test_contrast_vectors_word_no_answers() -> None:
    methods = {"base": None, "repe_contrast": None}
    made = table(tasks={"truthfulqa": None}, methods=methods, protocols=["paper", "open"], transfer=None)
    asked = {(node.fit.method, node.protocol) for node in made.evaluations.values()}
    assert asked == {("base", "paper"), ("base", "open"), ("repe_contrast", "paper")}


def test_examples_are_scored_where_they_are_put_in_front() -> None:
    made = table(protocols=["paper", "harness", "open"], methods={"base": None, "fewshot": None}, transfer=None)
    asked = {(node.fit.method, node.protocol) for node in made.evaluations.values()}
    assert asked == {("base", "paper"), ("base", "harness"), ("base", "open"), ("fewshot", "paper")}


def test_places_of_a_curve_are_numbers_of_heads_where_any_is() -> None:
    for ks, places in (([0.1, 1.0], [0.1, 1.0]), ([1, 27], [1, 27]), ([1, 0.5], [1, 135])):
        made = table(tasks={"listops": None}, seeds=[1], experiments={"head_fraction": {"k": ks}})
        assert sorted({arm.x for arm in made.experiments["head_fraction"]}) == places


@pytest.mark.parametrize("changes", [{"kind": "table"}, {"kind": "curve", "n_train": [4, 8]}])
def test_an_arm_of_an_experiment_can_be_searched(changes: dict[str, Any]) -> None:
    arm = {"method": "lora", "search": {"params": {"lr": [0.0001, 0.001]}}}
    made = table(
        experiments={"mine": {"tasks": ["listops"], "arms": {"LoRA": arm}, **changes}},
        methods={"base": None},
        transfer=None,
    )
    runs = [entry.fit for entry in made.experiments["mine"]]
    assert len(runs) == 2 * len(changes.get("n_train", [8])), "two seeds"
    for fit in runs:
        assert isinstance(fit, TunedNode)
        assert [candidate.params.lr for candidate in fit.candidates] == [0.0001, 0.001]


def test_heads_of_another_task() -> None:
    methods = {"lofit": {"heads": {"task": "siqa", "k": [3]}}}
    made = table(methods=methods, seeds=[1], transfer=None)
    assert {node.data.task for node in made.localize.values()} == {"siqa"}
    assert {(node.data.task, node.ranking.data.fold) for node in made.fits.values() if node.ranking} == {
        ("listops", 0), ("siqa", 0), ("truthfulqa", 0),
    }  # fmt: skip


def test_heads_that_are_ranked_last() -> None:
    """They are another run on the same ranking, and plain runs are called as if there were no such choice."""
    heads = [{"k": [3]}, {"k": [3], "bottom": True}]
    first, last = (table(methods={"lofit": {"heads": at}}, seeds=[1], transfer=None) for at in heads)
    assert first.localize.keys() == last.localize.keys()
    assert not first.fits.keys() & last.fits.keys()
    assert {row["selector"] for row in last.summary()} == {"lofit (bottom)"}
    for fit in (*first.fits.values(), *last.fits.values()):
        assert fit.identity.get("bottom") == (True if fit.bottom else None)


def test_precision_is_part_of_a_run_and_the_device_is_not() -> None:
    def ids(**changes: Any) -> set[str]:
        return set(table(**changes).fits)

    assert ids(device="cpu") == ids(device="cuda", dtype="float32") == ids(dtype="float32")
    assert ids(device="cuda") == ids(device="cpu", dtype="bfloat16") == ids(dtype="bfloat16")
    assert not ids(device="cpu") & ids(device="cuda")


def test_half_a_grid_on_cpu_and_half_on_gpu_cannot_come_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `auto` means is decided with the ids, and nodes read the configuration in which it is decided."""

    def parsed(raw: dict[str, Any], device: str) -> RunTable:
        monkeypatch.setattr("lofit.config.load.default_device", lambda: device)
        return RunTable(parse_config(raw))

    raw = CONFIG | {"methods": {"base": None, "iti": None}, "transfer": None}
    made = {device: parsed(raw, device) for device in ("cpu", "cuda")}
    for nodes in ("activations", "localize", "fits", "evaluations"):
        ids = {device: set(getattr(made[device], nodes)) for device in made}
        assert ids["cpu"] and not ids["cpu"] & ids["cuda"]
        for submitted, elsewhere in (("cpu", "cuda"), ("cuda", "cpu")):
            again = parsed(made[submitted].config.model_dump(mode="json"), elsewhere)
            assert again.config.device == submitted
            assert set(getattr(again, nodes)) == ids[submitted]


def test_a_node_for_a_gpu_is_refused_at_once_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it looks for model or data, of which there are none here."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    made = table(device="cuda", results=str(tmp_path / "results"), resources=str(tmp_path / "resources"))
    nodes: list[tuple[Any, Any]] = [
        (localize_node, next(iter(made.localize.values()))),
        (fit_node, next(fit for fit in made.fits.values() if fit.method == "lora")),
        (evaluate_node, next(node for node in made.evaluations.values() if node.fit.method == "base")),
    ]
    for module, node in nodes:
        with pytest.raises(ConfigError, match=r"^device: cuda asked for, but torch .* finds no GPU on .*; run it"):
            module.run(made, node)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_model_folder_belongs_to_one_source() -> None:
    def folder(path: str) -> Path:
        source = {"source": {"kind": "local", "path": path}, "n_layers": 3, "n_heads": 4}
        return table(models=["mine"], model_sources={"mine": source}, methods={"base": None}, transfer=None).model_dir(
            "mine"
        )

    assert folder("a") == folder("a") != folder("b")


def test_folds_never_share_a_file() -> None:
    made = table()
    for nodes in (made.fits, made.localize, made.data):
        of_task = [node for node in nodes.values() if "truthfulqa/" in node.id]
        folders = {made.folder(node) for node in of_task}
        assert len(folders) == len(of_task)
        assert {part for path in folders for part in path.parts if part.startswith("fold")} == {"fold0", "fold1"}


def test_the_configuration_of_one_model_is_that_of_the_paper() -> None:
    paper, one = (load_config(ROOT / "config" / f"{name}.yaml") for name in ("paper", "paper-7b"))
    [model] = one.models
    kept = [entry for entry in paper.shared_params if entry.model is None or model in entry.model]
    same = {"models": [model], "results": one.results, "shared_params": kept}
    assert paper.model_copy(update=same) == one
