"""Exported runs: what a stranger finds in the folder, and that it computes the same without this package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lm_eval.models.hf_steered import SteeredModel
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from lofit.cli.app import app
from lofit.errors import LofitError
from lofit.files import read_json
from lofit.interventions.spans import generation_spans
from lofit.models.adapters import load_fitted
from lofit.models.loading import load_tokenizer
from lofit.nodes import evaluate as evaluate_node
from lofit.nodes.generate import generator
from lofit.plan.table import RunTable
from lofit.tasks import task_folder
from tests.checkpoint import save_checkpoint
from tests.fitted import find, fitted_table, tiny_config
from tests.tiny import tiny_tokens
from tests.unit.sources.test_hub import MODEL_SHA, TOKEN, Hub

REPOSITORY = Path(__file__).parents[2]
TOKENS = tiny_tokens()
TRAINING = {"epochs": 1, "lr": 0.05}
METHODS: dict[str, Any] = {
    "lofit": {"heads": {"k": [3], "params": TRAINING}, "params": TRAINING},
    "iti": {"heads": {"k": [3]}},
    "repe": None,
    "red": {"params": TRAINING},
    "red_ffn": {"params": TRAINING},
    "jola": {"params": TRAINING},
    "lora": {"params": TRAINING},
    "full": {"params": TRAINING},
    "bitfit": {"params": TRAINING},
    "base": None,
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RunTable:
    """A configuration of which every method is fitted, and one evaluated, without the workflow."""
    folder = tmp_path_factory.mktemp("export")
    made = fitted_table(tiny_config(folder, METHODS))
    evaluate_node.run(made, made.own_evaluation(find(made, "lofit")))
    return made


def export(table: RunTable, method: str, out: Path, form: str = "hf") -> str:
    config = table.config.results.parent / "config.yaml"
    arguments = ["--run", find(table, method).id, "--out", str(out), "--format", form, "--configfile", str(config)]
    result = CliRunner().invoke(app, ["export", *arguments], catch_exceptions=True)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def fitted_logits(table: RunTable, method: str) -> torch.Tensor:
    adapter = table.folder(find(table, method)) / "adapter"
    model = load_fitted(table.model_dir("tiny"), adapter, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        logits: torch.Tensor = model(TOKENS).logits
    return logits


FOLDABLE = ("lofit", "iti", "repe", "red", "red_ffn", "jola", "lora", "full")


def test_plain_checkpoints_compute_the_same_in_a_process_without_this_package(table: RunTable, tmp_path: Path) -> None:
    expected = {"tokens": TOKENS}
    for method in FOLDABLE:
        assert str(tmp_path / method) in export(table, method, tmp_path / method)
        expected[method] = fitted_logits(table, method)
    save_file(expected, tmp_path / "expected.safetensors")
    script = f"""
import sys
for name in ("lofit", "peft"):
    sys.modules[name] = None
from pathlib import Path
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
here = Path({str(tmp_path)!r})
expected = load_file(here / "expected.safetensors")
tokens = expected.pop("tokens")
for method, wanted in expected.items():
    model, info = AutoModelForCausalLM.from_pretrained(here / method, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), (method, info)
    error = (model(tokens).logits - wanted).abs().max() / wanted.abs().max()
    assert error <= 1e-4, (method, error)
    assert AutoTokenizer.from_pretrained(here / method)("a")["input_ids"]
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("family", "told"), [("llama", False), ("qwen3", True)])
def test_a_checkpoint_that_vllm_would_load_without_its_edit_says_so(family: str, told: bool, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint", family)
    made = fitted_table(tiny_config(tmp_path, {"iti": {"heads": {"k": [3]}}}))
    said = export(made, "iti", tmp_path / "out")
    sentence = "vllm has no place for this edit's bias in Qwen3ForCausalLM: it loads this checkpoint without the edit"
    assert (f"warning: {sentence}" in said) == told
    assert (sentence in (tmp_path / "out" / "README.md").read_text()) == told


def test_the_edits_are_not_the_base_model(table: RunTable) -> None:
    base = AutoModelForCausalLM.from_pretrained(table.model_dir("tiny"))
    with torch.no_grad():
        plain = base(TOKENS).logits
    for method in (*FOLDABLE, "bitfit"):
        assert not torch.equal(fitted_logits(table, method), plain), method


def test_a_run_is_pushed_to_the_hub_as_it_is_exported(table: RunTable, tmp_path: Path) -> None:
    hub = Hub()
    hub.gated.add("owner/theirs")
    config = str(table.config.results.parent / "config.yaml")

    def push(repo: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lofit", "push", "--run", find(table, "lofit").id, "--repo", repo]
        env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": TOKEN}
        return subprocess.run(
            [*command, "--configfile", config], capture_output=True, text=True, env=env, check=False, cwd=REPOSITORY
        )

    done, refused = push("owner/mine"), push("owner/theirs")
    hub.close()
    assert done.stdout == f"{hub.url}/owner/mine/commit/{MODEL_SHA}\n", done.stderr
    export(table, "lofit", tmp_path / "out", "peft")
    pushed = hub.files["models", "owner/mine"]
    assert pushed == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert refused.returncode == 1
    assert "cannot be pushed (HTTP 403); set HF_TOKEN to a token that may write there" in refused.stderr
    assert TOKEN not in done.stdout + done.stderr + refused.stdout + refused.stderr
    assert len(refused.stderr.splitlines()) == 1, refused.stderr


def test_lm_evals_steered_model_computes_the_same(table: RunTable, tmp_path: Path) -> None:
    for method in ("lofit", "repe", "iti"):
        export(table, method, tmp_path / method, "steered")
        steered: Any = SteeredModel(
            str(table.model_dir("tiny")), str(tmp_path / method / "steering.pt"), device="cpu", batch_size=1
        )
        expected = fitted_logits(table, method)
        torch.testing.assert_close(steered.forward(TOKENS).logits, expected, rtol=1e-4, atol=1e-5)
    card = (tmp_path / "lofit" / "README.md").read_text()
    assert "Vectors of `tiny`" in card and "lm_eval run --model steered --model_args pretrained=resources/" in card
    torch.load(tmp_path / "lofit" / "steering.pt", weights_only=True)  # tensors and plain values, no code


def test_an_exported_adapter_has_a_card_and_loads_with_peft(table: RunTable, tmp_path: Path) -> None:
    export(table, "lofit", tmp_path / "adapter", "peft")
    base = AutoModelForCausalLM.from_pretrained(table.model_dir("tiny"))
    model = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.equal(model(TOKENS).logits, fitted_logits(table, "lofit"))
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    card = (tmp_path / "adapter" / "README.md").read_text()
    for part in (
        "# lofit on listops", "`tiny`", "import lofit", "exact_match", "ranked by `lofit` on `listops`",
        "library_name: peft",
    ):  # fmt: skip
        assert part in card
    assert all(f"L{layer}H{head}" in card for layer, head in config["heads"])
    assert str(table.config.results) not in card
    assert [*load_file(tmp_path / "adapter" / "adapter_model.safetensors")]


@pytest.mark.parametrize(("method", "form"), [("lofit", "peft"), ("lora", "peft"), ("full", "hf")])
def test_the_snippet_of_the_card_runs_as_it_stands(
    table: RunTable, method: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(table, method, tmp_path / "out", form)
    card = (tmp_path / "out" / "README.md").read_text()
    [tags] = re.findall(r"^tags: \[(.*)\]$", card, re.MULTILINE)
    assert tags == ", ".join(dict.fromkeys(["lofit", method]))
    (tmp_path / "out" / "resources").symlink_to(table.config.resources)  # as in the folder of a study
    monkeypatch.chdir(tmp_path / "out")
    [snippet] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    found: dict[str, Any] = {}
    exec(snippet, found)
    with torch.no_grad():
        assert torch.equal(found["model"].eval()(TOKENS).logits, fitted_logits(table, method))


@pytest.mark.parametrize(
    ("method", "form", "message"),
    [
        ("bitfit", "hf", "no bias"),
        ("base", "hf", "base fits nothing"),
        ("full", "peft", "there is no adapter; use --format hf"),
        ("full", "steered", "there is no adapter; use --format hf"),
        ("red", "steered", "the edit scales, which adding a vector cannot"),
        ("lora", "steered", "which has no vectors on heads"),
        ("repe", "gguf", "output of layer 0"),
        ("lofit", "gguf", "this edit is made elsewhere in them"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    table: RunTable, method: str, form: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(LofitError, match=message) as caught:
        export(table, method, tmp_path / "out", form)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_export_replaces_an_export_and_nothing_of_the_users(
    table: RunTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for form in ("hf", "peft"):
        export(table, "lora", Path("out"), form)
    assert not Path("out/model.safetensors").exists() and Path("out/adapter_model.safetensors").is_file()
    Path("out/notes.txt").write_text("mine")
    Path("link").symlink_to("out")
    results, resources = table.config.results, table.config.resources
    before = sorted(tmp_path.rglob("*")), sorted(results.parent.rglob("*"))
    for target in (
        "out", "link", ".", "..", "new/../out", "out/notes.txt", "~", "/", results, results / "runs", results.parent,
        resources, resources / "models" / "new",
    ):  # fmt: skip
        with pytest.raises(LofitError) as caught:
            export(table, "lora", Path(target), "peft")
        assert "\n" not in str(caught.value)
    assert (sorted(tmp_path.rglob("*")), sorted(results.parent.rglob("*"))) == before
    assert Path("out/notes.txt").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lofit", "iti", "red", "repe"])
def test_the_stock_command_line_of_the_harness_gives_the_same_scores(
    table: RunTable, method: str, tmp_path: Path
) -> None:
    node = find(table, method)
    evaluation = table.own_evaluation(node)
    evaluate_node.run(table, evaluation)
    expected = json.loads((table.folder(evaluation) / "results.json").read_text())["metrics"]
    export(table, method, tmp_path / "model")
    task = tmp_path / "task.yaml"
    items = table.folder(node.data) / "test.jsonl"
    definition = {
        "include": str(task_folder("listops") / "task.yaml"),
        "task": "lofit_listops",
        "dataset_kwargs": {"data_files": {"test": str(items)}},
    }
    task.write_text(yaml.safe_dump(definition))
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--tasks", str(task), "--batch_size", "4"]
    command += ["--model_args", f"pretrained={tmp_path / 'model'}", "--output_path", str(tmp_path / "scores")]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [*command, "--device", "cpu"], capture_output=True, text=True, env=env, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (scores,) = (tmp_path / "scores").rglob("results_*.json")
    found = json.loads(scores.read_text())["results"]["lofit_listops"]
    for name, metric in expected.items():
        assert found[f"{name},none"] == pytest.approx(metric["value"])


def test_the_offsets_of_a_run_are_printed_as_tokens(table: RunTable) -> None:
    config = str(table.config.results.parent / "config.yaml")

    def lens(method: str) -> Any:
        return CliRunner().invoke(app, ["lens", "--run", find(table, method).id, "-k", "2", "--configfile", config])

    result = lens("lofit")
    assert result.exit_code == 0, result.output
    rows = [line.split("|", 3)[1:] for line in result.output.splitlines() if re.match(r"\| +\d", line)]
    heads = read_json(table.folder(find(table, "lofit")) / "fit.json")["heads"]
    assert sorted([int(layer), int(head)] for layer, head, _ in rows) == sorted(heads)
    assert all(tokens.count("'") + tokens.count('"') >= 4 for *_, tokens in rows)
    assert "trains the model itself" in str(lens("full").exception)
    assert "which has no vectors on heads" in str(lens("lora").exception)


# --- lofit generate

PROMPTS = ["[MAX 1 2 ] =", "né"]


def generated(table: RunTable, *arguments: str, input: str | None = None) -> str:
    config = table.config.results.parent / "config.yaml"
    command = ["generate", "--tokens", "5", "--configfile", str(config), *arguments]
    result = CliRunner().invoke(app, command, input=input)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.mark.parametrize("method", ["lofit", "iti", "red_ffn", "full"])
def test_prompts_are_continued_by_both(table: RunTable, method: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(table.model_dir("tiny"))

    def by_hand(model: Any, prompt: str) -> str:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with generation_spans(torch.ones_like(ids)):
            new = model.generate(input_ids=ids, do_sample=False, max_new_tokens=5, pad_token_id=0)[0, ids.shape[1] :]
        return str(tokenizer.decode(new, skip_special_tokens=True))

    base = AutoModelForCausalLM.from_pretrained(table.model_dir("tiny")).eval()
    node = find(table, method)
    fitted = load_fitted(table.model_dir("tiny"), table.folder(node) / "adapter", torch.device("cpu"), torch.float32)
    pairs = generator(table, node, 5, chat=False)(PROMPTS)
    for prompt, (before, after) in zip(PROMPTS, pairs, strict=True):
        assert before == by_hand(base, prompt).split("</s>")[0]
        assert after == by_hand(fitted, prompt).split("</s>")[0]


def test_generate_takes_prompts_lines_and_a_session(table: RunTable) -> None:
    run = find(table, "full").id
    one = generated(table, "--run", run, "--prompt", PROMPTS[0], "--prompt", PROMPTS[1])
    assert re.findall(r"^prompt: (.*)$", one, re.MULTILINE) == PROMPTS
    assert one.count("\nbase: ") == one.count("\nfull: ") == 2
    assert generated(table, "--run", run, "--prompt", "-", input="\n".join(PROMPTS)) == one
    session = generated(table, "--run", run, input="\n".join(PROMPTS) + "\n")
    assert session.count("base: ") == 2 and session.count("prompt> ") == 3


def test_what_generate_refuses(table: RunTable) -> None:
    with pytest.raises(LofitError, match="no chat template"):
        generated(table, "--run", "/lofit-", "--prompt", "x", "--chat")
    with pytest.raises(LofitError, match="part of 2 ids"):
        generated(table, "--run", "/red", "--prompt", "x")
    with pytest.raises(LofitError, match="no node 'nobody' in this configuration"):
        generated(table, "--run", "nobody", "--prompt", "x")


def test_the_chat_template_words_prompts(table: RunTable, monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{% for message in messages %}<{{ message['content'] }}>{% endfor %}"
    load = load_tokenizer

    def loaded(folder: Path) -> Any:
        tokenizer = load(folder)
        tokenizer.chat_template = template
        return tokenizer

    plain = generator(table, find(table, "full"), 5, chat=False)(["<hello>"])
    monkeypatch.setattr("lofit.nodes.generate.load_tokenizer", loaded)
    assert generator(table, find(table, "full"), 5, chat=True)(["hello"]) == plain


def test_a_run_is_named_by_its_path_or_a_part_of_its_id(table: RunTable) -> None:
    node = find(table, "lora")
    for name in (node.id, str(table.folder(node)), "/lora-", node.id[-8:]):
        assert table.find(table.fits, name) is node
    with pytest.raises(LofitError, match=f"did you mean '{node.id}'"):
        table.find(table.fits, node.id[:-1] + "x")
