"""The table of the tokens that offsets stand for, on tiny models: its numbers, and what cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from markdown_it import MarkdownIt
from safetensors.numpy import load_file

from lofit.config import parse_config
from lofit.errors import ConfigError, SourceError
from lofit.files import read_json
from lofit.interventions.tuner.lens import offset_lens
from lofit.models.adapters import load_fitted
from lofit.models.loading import load_model
from lofit.nodes import fit as fit_node
from lofit.plan.kinds import FETCH, FIT
from lofit.plan.resources import LIGHT_MB, memory_mb
from lofit.plan.table import RunTable
from lofit.report import lens
from lofit.report.lens import lens_rows, shown_heads
from lofit.report.outputs import Output, outputs
from tests.checkpoint import byte_tokenizer, save_checkpoint
from tests.fitted import fitted_table, tiny_config, write_outputs
from tests.tiny import HEADS, HIDDEN

TRAINING = {"epochs": 1, "lr": 0.05}


def arm(k: int) -> dict[str, Any]:
    return {"method": "lofit", "heads": {"k": [k], "params": TRAINING}, "params": TRAINING}


EXPERIMENT = {
    "kind": "lens",
    "title": "Tokens",
    "arms": {"most": arm(11), "few": arm(2), "lost": arm(3)},
}


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    """Two models with grouped queries; the unembedding of the second is its embedding."""
    sources: dict[str, Any] = {}
    for name, tied in (("untied", False), ("tied", True)):
        checkpoint = folder / name
        if not checkpoint.is_dir():
            save_checkpoint(checkpoint, tie_word_embeddings=tied)
        sources[name] = {"source": {"kind": "local", "path": str(checkpoint)}, "n_layers": 3, "n_heads": 4}
    options = {"models": ["untied", "tied"], "model_sources": sources, "seeds": [1, 2]}
    return tiny_config(folder, {"base": None}, **options | {"experiments": {"lens": EXPERIMENT}} | changes)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RunTable:
    made = fitted_table(config(tmp_path_factory.mktemp("lens")))
    for run in made.experiments["lens"]:
        if run.label == "lost":
            fit_node.run(made, run.fit, killed="out of memory")
    return made


@pytest.fixture(scope="module")
def rows(table: RunTable) -> pd.DataFrame:
    return lens_rows(table, "lens")


def output(table: RunTable) -> Output:
    return next(output for output in outputs(table) if output.name == "lens")


def of_arm(rows: pd.DataFrame, model: str, arm: str) -> pd.DataFrame:
    return rows[(rows["model"] == model) & (rows["arm"] == arm)]


@pytest.mark.parametrize("model", ["untied", "tied"])
@pytest.mark.parametrize("arm", ["most", "few"])
def test_numbers_are_those_of_the_lens_and_of_a_direct_product(
    table: RunTable, rows: pd.DataFrame, model: str, arm: str
) -> None:
    fit = next(run.fit for run in table.experiments["lens"] if (run.fit.model, run.label) == (model, arm))
    adapter, found = table.folder(fit) / "adapter", of_arm(rows, model, arm)
    assert (found["seed"] == 1).all()
    assert (found["fold"] == 0).all()
    assert (found["note"] == "").all()
    selected = [tuple(head) for head in read_json(adapter.parent / "fit.json")["heads"]]
    heads = {key: part for key, part in found.groupby(["layer", "head"], sort=False)}
    assert set(heads) == set(selected)
    assert len(heads) == fit.k[0]
    loaded: Any = load_fitted(table.model_dir(model), adapter, torch.device("cpu"), torch.float32)
    for entry in offset_lens(loaded):
        part = heads[entry.layer, entry.head]
        assert part["place"].tolist() == list(range(1, 11))
        assert part["token_id"].tolist() == list(entry.tokens)
        assert part["probability"].tolist() == pytest.approx(entry.probabilities, rel=1e-5)
        assert (part["norm"] == entry.norm).all()
    weights = load_file(table.model_dir(model) / "model.safetensors")
    saved = load_file(adapter / "adapter_model.safetensors")
    assert ("lm_head.weight" in weights) == (model == "untied")
    unembedding = weights["lm_head.weight" if model == "untied" else "model.embed_tokens.weight"].astype(np.float64)
    d, tokenizer = HIDDEN // HEADS, byte_tokenizer()
    for (layer, head), part in heads.items():
        (offsets,) = (value for name, value in saved.items() if f"layers.{layer}." in name and "offset" in name)
        row = sorted(number for at, number in selected if at == layer).index(head)
        projection = weights[f"model.layers.{layer}.self_attn.o_proj.weight"].astype(np.float64)
        logits = unembedding @ projection[:, head * d : (head + 1) * d] @ offsets[row].astype(np.float64)
        chances = np.exp(logits) / np.exp(logits).sum()
        best = np.argsort(-chances)[:10]
        assert part["probability"].tolist() == pytest.approx(chances[best].tolist(), rel=1e-4)
        assert chances[part["token_id"].astype(int)].tolist() == pytest.approx(chances[best].tolist(), rel=1e-4)
        assert part["norm"].iloc[0] == pytest.approx(np.linalg.norm(offsets[row].astype(np.float64)), rel=1e-5)
        assert part["token"].tolist() == [repr(tokenizer.decode([token])) for token in part["token_id"]]


def test_the_largest_ten_are_shown_and_all_are_in_the_csv(table: RunTable, rows: pd.DataFrame) -> None:
    write_outputs(table, "lens")
    stem = table.config.results / "tables" / "lens"
    written = pd.read_csv(stem.with_suffix(".csv"))
    assert len(written) == len(rows) == 2 * (11 * 10 + 2 * 10 + 1)
    assert written["token"].isna().sum() == 2, "those of the runs that failed: a token `nan` is not an absent one"
    assert written["probability"].dropna().to_numpy() == pytest.approx(rows["probability"].dropna().to_numpy())
    norms = of_arm(written, "untied", "most").drop_duplicates(["layer", "head"])
    assert norms["norm"].is_monotonic_decreasing
    text = stem.with_suffix(".md").read_text()
    lines = [[cell.strip() for cell in line.split("|")[1:7]] for line in text.split("\n")]
    cells = [line[3:] for line in lines if line[:3] == ["untied", "listops", "most"]]
    wanted = zip(norms["layer"].astype(int), norms["head"].astype(int), norms["norm"], strict=True)
    assert cells == [[str(layer), str(head), f"{norm:.3f}"] for layer, head, norm in wanted][:10]
    assert text.startswith("**Tokens**")
    tex = stem.with_suffix(".tex").read_text()
    assert tex.count(" & most & ") == 20
    assert "\\begin{table}" in tex


def test_a_fit_that_failed_has_a_row_that_says_why(table: RunTable, rows: pd.DataFrame) -> None:
    for model in ("untied", "tied"):
        (line,) = of_arm(rows, model, "lost").to_dict("records")
        assert line["note"] == "the fit failed: out of memory"
        assert pd.isna(line["layer"])
    shown = shown_heads(rows)
    lost = shown[shown["arm"] == "lost"]
    assert (lost[["layer", "head", "norm"]] == "-").all(axis=None)
    write_outputs(table, "lens")
    assert "the fit failed: out of memory" in (table.config.results / "tables" / "lens.md").read_text()


def without_unembedding(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    model: Any = load_model(folder, device, dtype)
    model.get_output_embeddings = lambda: None
    return model


@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        (("pick_dtype", lambda name, device: "nf4"), "the weights are quantized (nf4)"),
        (("load_model", without_unembedding), "has no unembedding"),
    ],
)
def test_a_model_that_cannot_be_read_is_no_end_of_the_page(
    table: RunTable, monkeypatch: pytest.MonkeyPatch, patch: tuple[str, Any], reason: str
) -> None:
    monkeypatch.setattr(lens, *patch)
    found = lens_rows(table, "lens").set_index(["model", "arm"])
    assert len(found) == 2 * 3
    assert all(reason in found["note"][model, arm] for model in ("untied", "tied") for arm in ("most", "few"))
    assert "the fit failed" in found["note"]["tied", "lost"]
    write_outputs(table, "lens")
    assert reason in (table.config.results / "tables" / "lens.md").read_text()


def test_offsets_that_were_altered_are_refused(table: RunTable) -> None:
    weights = table.folder(table.experiments["lens"][0].fit) / "adapter" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(SourceError, match="was altered since it was fitted"):
        lens_rows(table, "lens")
    weights.write_bytes(whole)


def test_tokens_are_shown_as_they_are(table: RunTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of Markdown, HTML, LaTeX and tables, line breaks and blanks at the ends."""
    signs = ["**", "_a_", "`", "``", "|", "<b>", "\\", " $x$", "\n", "#&%~^{"]
    made = pd.DataFrame({"place": range(1, 11), "token": [repr(sign) for sign in signs]})
    made = made.assign(model="m", task="t", arm="a", layer=0, head=3, norm=1.0, probability=0.000123, note="")
    monkeypatch.setattr(lens, "lens_rows", lambda table, name: made)
    write_outputs(table, "lens")
    text = (table.config.results / "tables" / "lens.md").read_text()
    blocks = MarkdownIt("commonmark").enable("table").parse(text)
    codes = [part.content for block in blocks for part in block.children or [] if part.type == "code_inline"]
    assert codes == [repr(sign) for sign in signs]
    tex = (table.config.results / "tables" / "lens.tex").read_text()
    assert "'\\textbar{}' 0.00012" in tex
    assert "' \\$x\\$' 0.00012" in tex


def test_the_table_waits_for_fits_alone_and_asks_for_the_memory_of_its_models(table: RunTable) -> None:
    found = output(table)
    fits = {run.fit.id: run.fit for run in table.experiments["lens"]}
    assert {fit.seed for fit in fits.values()} == {1}
    wanted = {path for fit in fits.values() for path in FIT.outputs(table, fit)}
    assert set(found.needs) == wanted | {path for node in table.models.values() for path in FETCH.outputs(table, node)}
    assert [node.model for node in found.loads] == ["untied", "tied"]
    raw = config(table.config.results.parent)
    raw["model_sources"]["untied"]["billions"] = 0.1
    raw["model_sources"]["tied"]["billions"] = 13.0
    large = RunTable(parse_config(raw))
    small, needed = (memory_mb(large, node) for node in output(large).loads)
    assert LIGHT_MB < small < 13 * 4 * 1000 < needed
    assert all(not other.loads for other in outputs(table) if other.name != "lens")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"LoRA": {"method": "lora"}}}, "'lora' does not select heads"),
        ({"k": [2]}, "only a curve runs over it"),
    ],
)
def test_arms_without_offsets_on_heads_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(config(tmp_path, experiments={"lens": EXPERIMENT | changes}))
