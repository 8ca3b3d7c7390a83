"""The whole DAG on a tiny random model: what runs, what does not run again, and how failure shows."""

from __future__ import annotations

import copy
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lofit.config import load_config, parse_config
from lofit.experiments import UNSCORED
from lofit.files import read_json, read_jsonl, write_jsonl
from lofit.plan.kinds import EFFECTS, EVALUATE, FETCH, FIT, KINDS, PLANT, SELECT_BEST, counts
from lofit.plan.table import RunTable
from lofit.report.outputs import outputs
from tests.checkpoint import save_checkpoint
from tests.workflows import REPOSITORY, TRAINING, Workflow


@pytest.fixture(scope="module")
def workflow(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    made = Workflow(tmp_path_factory.mktemp("workflow"))
    assert made.planned() == Counter(
        fetch=1, prepare=1, capture=1, localize=2, fit=5, evaluate=7, collect=1, collect_part=2, table=4, figure=4,
        page=1,
    )  # fmt: skip
    made.run()
    return made


def test_results_are_tidy_and_complete(workflow: Workflow) -> None:
    results = pd.read_parquet(workflow.path(Path("results/results.parquet")))
    headline = results[results["metric"] == "exact_match"].set_index("method")
    assert sorted(headline.index) == ["base", "fewshot", "full", "iti", "lofit", "lora", "repe"]
    assert (headline["status"] == "ok").all()
    assert (headline["n_items"] == 6).all()
    assert (headline["n_train"] == 8).all()
    assert (headline["protocol"] == "paper").all()
    # 3 heads x head dim 8; rank 8 on q (32 x 32) and v (32 x 16) of 3 layers
    assert headline["trained_params"].astype("object").to_dict()["lofit"] == 24
    assert headline["trained_params"].astype("object").to_dict()["lora"] == 3 * 8 * (32 + 32 + 32 + 16)
    assert headline["trained_params"].isna().sort_index().to_dict() == {
        "base": True, "fewshot": True, "full": False, "iti": False, "lofit": False, "lora": False, "repe": False,
    }  # fmt: skip
    assert headline["trained_params"]["iti"] == headline["trained_params"]["repe"] == 0
    chosen = dict(part.split("=") for part in headline["chosen"]["iti"].split(", "))
    assert headline["stored_params"]["iti"] == int(chosen["k"]) * 8
    assert chosen["k"] in ("2", "3")
    assert headline["localize_seconds"]["lofit"] > 0
    assert headline["activations_seconds"].notna().sort_index().tolist() == [False] * 3 + [True] + [False] * 2 + [True]
    fitted = ["lofit", "lora", "iti", "repe", "full"]
    assert (headline.loc[fitted, ["fit_seconds", "peak_memory_bytes"]] > 0).all(axis=None)
    assert (headline["dtype"] == "float32").all()


def test_every_node_leaves_its_files_and_a_log(workflow: Workflow) -> None:
    table, node = workflow.table(), workflow.fit("lofit")
    run, ranking = workflow.path(table.folder(node)), node.ranking
    assert ranking is not None
    report = read_json(run / "fit.json")
    assert report["status"] == "ok"
    assert len(report["train_loss"]) == report["steps"] == 1
    heads = pd.read_parquet(workflow.path(table.folder(ranking)) / "heads.parquet")
    assert heads.columns.tolist() == ["layer", "head", "score", "rank"]
    assert heads["rank"].tolist() == list(range(1, 13))
    assert report["n_heads"] == 3
    assert [tuple(h) for h in report["heads"]] == list(zip(heads["layer"][:3], heads["head"][:3], strict=True))
    assert sorted(p.name for p in (run / "adapter").iterdir() if p.suffix != ".md" and p.name[0] != ".") == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    samples = read_jsonl(workflow.path(table.folder(table.own_evaluation(node))) / "samples.jsonl")
    assert len(samples) == 6
    assert "exact_match" in samples[0]
    assert read_json(run / "run.json") == node.identity
    for kind in KINDS:
        assert kind.nodes(table) or kind in (SELECT_BEST, EFFECTS, PLANT)
        for id in kind.nodes(table):
            assert workflow.path(kind.log(table, id)).stat().st_size > 0


def test_table_and_figure_are_made(workflow: Workflow) -> None:
    for name in (
        "tables/main.csv",
        "tables/main.md",
        "tables/main.tex",
        "tables/overlap.csv",
        "tables/suite.csv",
        "items.parquet",
        *(f"figures/{name}.{e}" for name in ("main", "costs", "heads", "transfer") for e in ("pdf", "png", "csv")),
    ):
        assert (workflow.folder / "results" / name).stat().st_size > 0
    overlap = pd.read_csv(workflow.folder / "results" / "tables" / "overlap.csv")
    assert sorted(overlap["k"]) == [2, 3]
    assert overlap["first"].str.contains("listops/fold0/seed42/").all()
    assert overlap["jaccard"].between(0, 1).all()
    text = (workflow.folder / "results" / "tables" / "main.md").read_text()
    assert "lofit (3 heads)" in text
    assert "failed" not in text


def test_the_suite_is_the_mean_of_the_items_differences(workflow: Workflow) -> None:
    folder = workflow.folder / "results"
    suite = pd.read_csv(folder / "tables" / "suite.csv").set_index("method")
    results = pd.read_parquet(folder / "results.parquet")
    scores = results[results["metric"] == "exact_match"].set_index("method")["value"]
    for method, name in (("lora", "lora"), ("lofit", "lofit (3 heads)")):
        assert suite["base"][name] == pytest.approx(100 * (scores[method] - scores["base"]))
        assert suite["full"][name] == pytest.approx(100 * (scores[method] - scores["full"]))
        assert suite["base.low"][name] <= suite["base"][name] <= suite["base.high"][name]
    assert (suite["tasks"] == 1).all()


def test_a_fresh_folder_takes_everything_from_a_store(workflow: Workflow, tmp_path: Path) -> None:
    """The store travels by `cp -r`, which keeps no times. No model is read: no server of one is started."""
    lofit = [sys.executable, "-m", "lofit", "store", "add", "store"]
    env = workflow.environment() | {"PYTHONPATH": str(REPOSITORY), "LOFIT_CONFIG": "config.yaml"}
    added = subprocess.run(lofit, cwd=workflow.folder, env=env, capture_output=True, text=True, check=False)
    assert (added.returncode, added.stdout) == (0, "16 added\n"), added.stderr
    copied = shutil.copytree(workflow.folder / "store", tmp_path / "copied")
    draw = random.Random(0)
    for path in sorted(copied.rglob("*")):
        os.utime(path, (draw.randrange(10**9),) * 2)
    fresh = Workflow(tmp_path / "fresh")
    fresh.config = workflow.config | {"reuse": [str(copied)]}
    fresh.run()
    table = fresh.table()
    for kind in KINDS:
        for id in kind.nodes(table):
            said = fresh.path(kind.log(table, id)).read_text()
            taken = f"{id}: taken from the store {copied}, not computed\n"
            assert kind is FETCH or said == taken, said
    servers = [made.folder / "results" / "logs" / "servers" for made in (workflow, fresh)]
    assert [bool(list(folder.glob("tiny-*"))) for folder in servers] == [True, False]
    for name in ("results.csv", "tables/main.md", "tables/suite.csv", "items.parquet"):
        there, here = (made.folder / "results" / name for made in (workflow, fresh))
        assert here.read_bytes() == there.read_bytes(), name
    page = (fresh.folder / "results" / "report.html").read_text()
    assert f"Taken from the store {copied}, not computed here: 16 nodes" in page
    assert fresh.planned() == Counter(), "the times of what was taken are those of now"
    node = fresh.fit("lora")
    shutil.rmtree(fresh.path(table.folder(node)))
    (copied / "runs" / node.id / "fit.json").write_text("{}")
    fresh.run()
    log = fresh.path(FIT.log(table, node.id)).read_text()
    assert f"warning: fit {node.id} is not taken from {copied}: fit.json was altered" in log
    assert "validation loss" in log, "so it was computed"
    scored = fresh.path(EVALUATE.log(table, table.own_evaluation(node).id)).read_text()
    assert "taken from the store" in scored, "the scores of an adapter of the same bytes"


def test_an_own_task_is_trained_and_others_are_watched(tmp_path: Path) -> None:
    """Every kind of task of one's own: one to train for, two that show what the training changed."""
    made = Workflow(tmp_path)
    rows = {
        "sums": [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(30)],
        "colours": [{"prompt": f"{i} is", "choices": ["red", "green"], "gold": i % 2} for i in range(12)],
    }
    for name, items in rows.items():
        (tmp_path / name).mkdir()
        for split, part in (("train", items[:-6]), ("test", items[-6:])):
            write_jsonl(tmp_path / name / f"{split}.jsonl", part)
    pages = tmp_path / "mirror" / "hub" / "EleutherAI" / "wikitext_document_level" / "wikitext-2-raw-v1"
    pages.mkdir(parents=True)
    write_jsonl(pages / "test.jsonl", [{"page": f"An article on {i}. " * 40} for i in range(2)])
    about = tmp_path / "sums.yaml"
    about.write_text(yaml.safe_dump({"train": "sums/train.jsonl", "test": "sums/test.jsonl"}))
    config = made.config | {
        "tasks": {"sums": {"path": str(about)}},
        "retention": {"colours": {"path": str(tmp_path / "colours")}, "wikitext": None},
        "methods": {name: made.config["methods"][name] for name in ("base", "lofit", "full")},
        "data_mirror": str(tmp_path / "mirror"),
    }
    del config["transfer"]
    made.run(config)
    results = pd.read_parquet(tmp_path / "results" / "results.parquet").set_index(["method", "eval_task", "metric"])
    assert (results["status"] == "ok").all()
    assert results["n_items"]["lofit", "sums", "exact_match"] == 6
    assert results["n_items"]["full", "colours", "acc"] == 6
    assert results["value"]["base", "wikitext", "kl"] == 0
    assert results["value"]["lofit", "wikitext", "kl"] > 0
    assert results["value"]["full", "wikitext", "kl"] > 0
    assert ("base", "colours", "kl") not in results.index and ("lofit", "sums", "kl") not in results.index
    assert results["value"]["lofit", "colours", "kl"] > 0
    assert results["value"]["full", "colours", "kl"] > 0
    assert results["n_items"]["full", "colours", "kl"] == 6
    moved = pd.read_csv(tmp_path / "results" / "figures" / "disturbance.csv")
    assert set(moved["moved_on"]) == {"plain text", "prompts of other tasks"}
    assert set(moved["scored_on"]) == {"sums", "colours"}
    table = pd.read_csv(tmp_path / "results" / "tables" / "retention.csv").set_index(["method", "scored on"])
    for name, method in (("lofit (3 heads)", "lofit"), ("full", "full")):
        entropy = results["value"].xs(("wikitext", "cross_entropy"), level=("eval_task", "metric"))
        assert table["change"][name, "wikitext"] == pytest.approx(entropy[method] - entropy["base"], abs=1e-6)
        assert table["metric"][name, "wikitext"] == "cross_entropy (nats)"
    before = made.planned(config)
    write_jsonl(tmp_path / "colours" / "test.jsonl", rows["colours"][:5])
    assert before == Counter()
    assert made.planned(config)["prepare"] == 1
    assert made.planned(config)["fit"] == 0
    about.write_text(yaml.safe_dump({"train": "sums/train.jsonl", "test": "sums/test.jsonl", "max_gen_toks": 5}))
    fits = [f"results/runs/{node.id}" for node in RunTable(parse_config(config)).fits.values() if node.method == "full"]
    own = [path for fit in fits for path in (tmp_path / fit).glob("eval/paper/sums/*/results.json")]
    assert made.planned(config, *(str(path.relative_to(tmp_path)) for path in own)) == Counter(evaluate=1)


def test_other_tasks_are_scored_beside_a_protocol_that_they_lack(tmp_path: Path) -> None:
    made = Workflow(tmp_path)
    config = made.config | {
        "tasks": {"siqa": None}, "protocols": ["harness"], "retention": {"nq_open": None},
        "methods": {"base": None, "lora": None},
    }  # fmt: skip
    del config["transfer"]
    assert made.planned(config)["evaluate"] == 4  # each on both


def test_each_protocol_has_a_table_of_its_own(tmp_path: Path, data_mirror: Path) -> None:
    made = Workflow(tmp_path)
    checkpoint = save_checkpoint(tmp_path / "reader", max_position_embeddings=4096)
    source = {"source": {"kind": "local", "path": str(checkpoint)}, "n_layers": 3, "n_heads": 4}
    config = made.config | {
        "models": ["reader"],
        "model_sources": {"reader": source, "judge": source},
        "tasks": {"truthfulqa": {"folds": [0], "options": {"n_train": 4, "n_validation": 2, "n_test": 3}}},
        "methods": {"base": None, "fewshot": {"params": {"shots": 1}}},
        "protocols": ["paper", "harness", "open"],
        "judges": {"truth": "judge", "info": "judge"},
        "data_mirror": str(data_mirror),
    }
    del config["transfer"]
    made.run(config)
    results = pd.read_parquet(tmp_path / "results" / "results.parquet")
    assert (results["status"] == "ok").all()
    metrics = results[results["method"] == "base"].groupby("protocol")["metric"].apply(set).to_dict()
    assert metrics["paper"] == {"mc1", "mc2"}
    assert metrics["harness"] == {"truthfulqa_mc1.acc", "truthfulqa_mc2.acc"}
    assert metrics["open"] >= {"bleu_diff", "rougeL_diff", "true", "informative", "true_and_informative"}
    for name, protocol, metric in (
        ("main", "paper", "mc1"),
        ("main-harness", "harness", "truthfulqa_mc1.acc"),
        ("main-open", "open", "true_and_informative"),
    ):
        table = pd.read_csv(tmp_path / "results" / "tables" / f"{name}.csv").set_index("method")
        assert (table["truthfulqa.protocol"] == protocol).all()
        value = results[(results["method"] == "base") & (results["metric"] == metric)]["value"].item()
        assert table["truthfulqa.percent"]["base"] == pytest.approx(100 * value)
    judged = results[(results["method"] == "base") & (results["protocol"] == "open")].set_index("metric")["value"]
    assert judged["true_and_informative"] <= min(judged["true"], judged["informative"])
    assert judged["true_x_informative"] == pytest.approx(judged["true"] * judged["informative"])
    items = pd.read_parquet(tmp_path / "results" / "items.parquet")
    assert set(items["metric"]) == set(results["metric"]) - {"true_x_informative"}


def test_summary_shows_table_files_and_next_step(workflow: Workflow) -> None:
    command = [sys.executable, "-m", "lofit", "summary", "--configfile", "config.yaml"]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "120"}
    result = subprocess.run(command, capture_output=True, text=True, env=env, cwd=workflow.folder, check=False)
    assert result.returncode == 0, result.stderr
    for part in ("lofit (3 heads)", "results/results.parquet", "results/figures/transfer.png", "lofit run "):
        assert part in result.stdout


def test_the_report_page_and_that_of_snakemake_show_tables_and_figures(workflow: Workflow) -> None:
    page = (workflow.folder / "results" / "report.html").read_text()
    for part in ("lofit (3 heads)", 'id="figure-transfer"', "data:image/png;base64,", "None of 7 runs"):
        assert part in page
    result = workflow.snakemake("--report", "snakemake.html")
    assert result.returncode == 0, result.stderr[-4000:]
    page = (workflow.folder / "snakemake.html").read_text()
    for part in ("Every run localizes, fits and evaluates", "Figure <tt", "Tables", "results/figures/transfer.png"):
        assert part in page


def test_a_second_run_does_nothing(workflow: Workflow) -> None:
    assert workflow.planned() == Counter()
    assert "Nothing to be done" in workflow.run()


def test_a_changed_hyperparameter_reruns_its_method_and_what_follows(workflow: Workflow) -> None:
    changed = copy.deepcopy(workflow.config)
    changed["methods"]["lora"]["params"] = TRAINING | {"lr": 0.02}
    assert workflow.planned(changed) == Counter(fit=1, evaluate=1, collect=1, collect_part=1, table=2, figure=2, page=1)
    changed = copy.deepcopy(workflow.config)
    changed["methods"]["lofit"]["heads"]["params"] = TRAINING | {"l1": 0.5}
    assert workflow.planned(changed) == Counter(
        localize=1, fit=1, evaluate=1, collect=1, collect_part=2, table=3, figure=4, page=1
    )


def test_a_single_output_needs_its_own_runs_alone(workflow: Workflow) -> None:
    arms = {"base": {"method": "base"}, "lora": {"method": "lora", "params": TRAINING}}
    heads = {"lofit": {"method": "lofit", "heads": {"k": [3]}}}
    experiments = {"own": {"kind": "table", "arms": arms}, "where": {"kind": "layers", "arms": heads}}
    experiments |= {"tokens": {"kind": "lens", "arms": heads}}
    config = {**workflow.config, "results": "single", "experiments": experiments}
    for output, jobs in (
        ("figures/transfer.pdf", Counter(localize=1, fit=1, evaluate=1, collect_part=1, figure=1)),
        ("tables/own.md", Counter(fit=1, evaluate=2, collect_part=1, table=1)),
        ("figures/where.pdf", Counter(localize=1, figure=1)),
        ("tables/tokens.md", Counter(localize=1, fit=1, table=1)),
    ):
        assert workflow.planned(config, f"single/{output}") == jobs


def test_published_values_stand_beside_ours(workflow: Workflow) -> None:
    source = workflow.config["model_sources"]["tiny"]
    config = {**workflow.config, "models": ["llama-3.2-1b"], "model_sources": {"llama-3.2-1b": source}}
    config |= {"results": "published", "methods": {name: workflow.config["methods"][name] for name in ("base", "lora")}}
    del config["transfer"]
    workflow.run(config)
    [row] = pd.read_csv(workflow.folder / "published" / "tables" / "expected.csv").to_dict("records")
    results = pd.read_parquet(workflow.folder / "published" / "results.parquet").set_index(["method", "metric"])
    assert row["ours"] == pytest.approx(100 * results["value"]["lora", "exact_match"])
    assert (row["method"], row["what"], row["published"]) == ("lora", "listops exact_match", 65.3)
    assert row["low"] <= row["difference"] == pytest.approx(row["ours"] - row["published"])
    assert "2603.00425" in row["source"]


def test_a_deleted_adapter_reruns_its_own_branch(workflow: Workflow) -> None:
    node = workflow.fit("lora")
    adapter = workflow.path(workflow.table().folder(node)) / "adapter"
    kept = shutil.copytree(adapter, workflow.folder / "kept")
    shutil.rmtree(adapter)
    assert workflow.planned() == Counter(fit=1, evaluate=1, collect=1, collect_part=1, table=2, figure=2, page=1)
    workflow.run()
    weights = "adapter_model.safetensors"
    assert (adapter / weights).read_bytes() == (kept / weights).read_bytes(), "the same seed gives the same adapter"
    assert workflow.planned() == Counter()


def test_a_diverged_fit_is_a_row_not_a_crash(workflow: Workflow) -> None:
    broken = copy.deepcopy(workflow.config)
    broken["methods"]["lora"]["params"] = {"epochs": 3, "lr": 1e30, "batch_size": 2}
    broken["results"] = "diverged"
    del broken["methods"]["lofit"], broken["transfer"]
    workflow.run(broken)
    results = pd.read_parquet(workflow.folder / "diverged" / "results.parquet").set_index("method")
    assert re.match(r"failed: (loss|norm of the gradient) is nan at step", results["status"]["lora"])
    assert "lower the learning rate" in results["status"]["lora"]
    assert (results.loc[["base"], "status"] == "ok").all()
    assert re.search(r"lora +\| +failed", (workflow.folder / "diverged" / "tables" / "main.md").read_text())


def test_a_broken_configuration_stops_the_workflow_with_one_line(workflow: Workflow) -> None:
    broken = copy.deepcopy(workflow.config)
    broken["methods"]["lofit"]["heads"]["k"] = [13]
    result = workflow.snakemake(config=broken)
    assert result.returncode != 0
    errors = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert "methods.lofit.heads.k: 13 is more than the 12 heads of tiny" in errors[0]
    assert "Traceback" not in result.stderr


def test_a_wrong_shape_in_the_configuration_is_found_when_the_model_is_there(workflow: Workflow) -> None:
    broken = copy.deepcopy(workflow.config)
    broken["model_sources"]["tiny"]["n_heads"] = 8
    broken["resources"] = "other"
    result = workflow.snakemake(config=broken)
    assert result.returncode != 0
    assert "3 layers x 8 heads configured, the model has 3 x 4" in result.stdout + result.stderr
    assert not list((workflow.folder / "other" / "models").rglob("config.json"))


def test_a_changed_file_of_a_local_model_and_a_changed_shape_rerun_what_uses_them(workflow: Workflow) -> None:
    weights = workflow.folder / "checkpoint" / "model.safetensors"
    kept, times = weights.read_bytes(), weights.stat()
    weights.write_bytes(kept[:-4] + b"\0\0\0\0")
    assert workflow.planned()["fit"] == 5
    weights.write_bytes(kept)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    tokenizer = workflow.folder / "checkpoint" / "tokenizer_config.json"
    kept, times = tokenizer.read_bytes(), tokenizer.stat()
    tokenizer.write_bytes(kept + b"\n")
    os.utime(tokenizer, (0, 0))  # as a file that is copied with its time
    assert workflow.planned()["fit"] == 5
    tokenizer.write_bytes(kept)
    os.utime(tokenizer, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert workflow.planned() == Counter()
    changed = copy.deepcopy(workflow.config)
    changed["model_sources"]["tiny"]["n_heads"] = 8
    assert workflow.planned(changed)["fetch"] == 1


def test_a_mirror_reruns_nothing(workflow: Workflow) -> None:
    assert workflow.planned(workflow.config | {"data_mirror": "anywhere"}) == Counter()


def test_what_a_model_asks_of_machines_reruns_the_page_that_tells_it_alone(workflow: Workflow) -> None:
    config = copy.deepcopy(workflow.config)
    config["model_sources"]["tiny"] |= {"billions": 0.5, "gpus": 2}
    assert workflow.planned(config) == Counter(page=1)


def test_a_search_is_part_of_the_workflow(workflow: Workflow) -> None:
    """Candidates are fits like others, and one that was run before is not run again, unless it lacks the metric."""
    config = copy.deepcopy(workflow.config)
    config["methods"] = {
        "base": None,
        "lora": {"params": TRAINING, "search": {"params": {"lr": [TRAINING["lr"], 0.1]}}},
    }
    del config["transfer"]
    assert workflow.planned(config)["fit"] == 2
    config["select_by"] = "loss"
    planned = workflow.planned(config)
    assert {name: planned[name] for name in ("fit", "select_best", "evaluate", "table")} == {
        "fit": 1, "select_best": 1, "evaluate": 1, "table": 3,
    }  # fmt: skip
    workflow.run(config)
    results = pd.read_parquet(workflow.path(Path("results/results.parquet"))).set_index("method")
    assert (results["status"] == "ok").all()
    assert (results.loc[["lora"], "tried"] == 2).all()
    text = (workflow.folder / "results" / "tables" / "search.md").read_text()
    assert sorted(re.findall(r"\| (yes|no) +\|", text)) == ["no", "yes"]
    assert "best of 2" in (workflow.folder / "results" / "tables" / "main.md").read_text()
    assert workflow.planned(config) == Counter()
    workflow.run()


def test_folders_may_have_blanks_in_their_names(workflow: Workflow) -> None:
    blank = {**workflow.config, "results": "my results", "methods": {"base": None}}
    del blank["transfer"]
    workflow.run(blank)
    assert (workflow.folder / "my results" / "tables" / "main.md").is_file()


def test_a_node_that_runs_too_early_says_what_is_missing(workflow: Workflow) -> None:
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    table, lora = workflow.table(), workflow.fit("lora")
    empty = workflow.folder / "empty.yaml"
    empty.write_text(yaml.safe_dump(workflow.config | {"results": "none", "resources": "nothing"}))
    for arguments, missing in (
        (["collect"], "node prepare"),
        (["node", "fit", lora.id], "node prepare"),
        (["node", "fit", workflow.fit("iti").id], "node localize"),
        (["node", "evaluate", table.own_evaluation(lora).id], f"node fit {lora.id}"),
        (["node", "evaluate", table.own_evaluation(workflow.fit("base")).id], "node fetch tiny"),
        (["node", "localize", next(iter(table.localize))], "node "),
    ):
        command = [sys.executable, "-m", "lofit", *arguments, "--configfile", str(empty)]
        result = subprocess.run(command, capture_output=True, text=True, env=env, cwd=workflow.folder, check=False)
        assert result.returncode == 1, (arguments, result.stderr)
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        assert missing in result.stderr
    assert not [path for path in (workflow.folder / "none").rglob("*") if path.is_file()]


def test_other_adapters_load_with_plain_peft(workflow: Workflow) -> None:
    adapter = workflow.path(workflow.table().folder(workflow.fit("lofit"))) / "adapter"
    script = (
        "import lofit, sys; from peft import PeftModel; from transformers import AutoModelForCausalLM as A; "
        "m = PeftModel.from_pretrained(A.from_pretrained(sys.argv[1]), sys.argv[2]); "
        "print(sum(p.numel() for n, p in m.named_parameters() if 'lofit_' in n))"
    )
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", script, str(workflow.folder / "checkpoint"), str(adapter)]
    result = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    assert result.stdout.strip().splitlines()[-1] == "24"


def test_nodes_that_share_a_base_model_can_run_as_one_job(workflow: Workflow) -> None:
    twin = copy.deepcopy(workflow.config["model_sources"])
    config = {**workflow.config, "models": ["tiny", "twin"], "model_sources": {**twin, "twin": twin["tiny"]}}
    config["results"] = "elsewhere"
    grouped = str(REPOSITORY / "workflow" / "profiles" / "grouped")
    result = workflow.snakemake("--dry-run", "--profile", grouped, config=config)
    assert result.returncode == 0, result.stderr[-4000:]
    _, *groups = re.split(r"Group job (?=\w+ \(jobs)", result.stdout + result.stderr)
    # Jobs of no group are not indented, and may be listed after any of them.
    groups = [re.split(r"^(?:local)?rule ", group, flags=re.MULTILINE)[0] for group in groups]
    assert sorted(group.split()[0] for group in groups) == ["tiny", "twin"]
    for group in groups:
        jobs = re.findall(r"^    rule (\w+):", group, re.MULTILINE)
        assert Counter(jobs) == Counter(capture=1, localize=2, fit=5, evaluate=7)
        assert set(re.findall(r"model=(\w+)", group)) == {group.split()[0]}


@pytest.mark.parametrize("name", ["paper", pytest.param("modern", marks=pytest.mark.slow), "laptop", "laptop-short"])
def test_ready_configurations_are_planned_whole(name: str, tmp_path: Path) -> None:
    file = REPOSITORY / "config" / f"{name}.yaml"
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "2", "--configfile", str(file)]
    command += ["--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    stats = dict(re.findall(r"^(\w+) +(\d+)$", result.stdout + result.stderr, re.MULTILINE))
    config = load_config(file)
    table = RunTable(config)
    wanted = counts(table) | Counter(output.kind for output in outputs(table)) | {"collect": 1}
    scored = [name for name in config.experiments if config.experiment(name).kind not in UNSCORED]
    wanted["collect_part"] = len(table.parts()) - 1 - len(table.experiments) + len(scored)  # all have their own rule
    assert {rule: int(stats[rule]) for rule in wanted} == wanted
