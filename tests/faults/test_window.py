"""Prompts and answers that do not fit: prompts are cut on the left and counted, answers are never cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lm_eval.api.instance import Instance

from lofit.errors import FitError
from lofit.evaluation.finite import CheckedLM
from lofit.evaluation.harness import evaluate
from lofit.evaluation.lm import LocalizedLM
from lofit.evaluation.text import score_text
from lofit.evaluation.window import cut_items
from lofit.files import read_json, write_jsonl
from lofit.nodes import evaluate as evaluate_node
from lofit.plan.table import ALL, MAIN
from lofit.report.main import comparison
from lofit.report.page import item_remarks
from lofit.report.parts import collect_results
from lofit.tasks import load_task
from tests.checkpoint import byte_tokenizer, save_checkpoint
from tests.fitted import fitted_table, tiny_config
from tests.tiny import tiny_model

KINDS = [LocalizedLM, CheckedLM]


def lm(kind: type[CheckedLM], window: int) -> Any:
    model = tiny_model("llama", vocab_size=259, max_position_embeddings=window)
    return kind(pretrained=model, tokenizer=byte_tokenizer(), batch_size=2, backend="causal")


def encoded(made: Any, *pairs: tuple[str, str]) -> list[Any]:
    return [(pair, *made._encode_pair(*pair)) for pair in pairs]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_cut_on_the_left_and_its_answer_is_whole(kind: type[CheckedLM]) -> None:
    made = lm(kind, 16)
    long, short = made._loglikelihood_tokens(
        encoded(made, ("x" * 40 + "0123456789", " yes"), ("xxx0123456789", " yes")), disable_tqdm=True
    )
    assert long[0] == pytest.approx(short[0], abs=1e-4)
    whole = made._loglikelihood_tokens(encoded(made, ("0", "a" * 16)), disable_tqdm=True)
    assert whole[0][0] < 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("context", "ids", "message"),
    [
        ([5, 6], [], r"the answer ' a' has no tokens"),
        ([5, 6], [7] * 17, r"the answer ' a' has 17 tokens and the model reads 16"),
    ],
)
def test_an_answer_without_tokens_or_with_too_many_fails(
    kind: type[CheckedLM], context: list[int], ids: list[int], message: str
) -> None:
    with pytest.raises(FitError, match=message):
        lm(kind, 16)._loglikelihood_tokens([(("Q", " a"), context, ids)], disable_tqdm=True)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_to_be_generated_must_leave_room_for_a_prompt(kind: type[CheckedLM]) -> None:
    made = lm(kind, 16)

    def said(prompt: str, n: int) -> Any:
        given = {"until": ["\n"], "max_gen_toks": n, "do_sample": False}
        return made.generate_until([Instance("generate_until", {}, (prompt, given), 0)], disable_tqdm=True)

    assert said("x" * 50 + "0123456789", 6) == said("0123456789", 6)
    with pytest.raises(FitError, match="16 tokens are to be generated and the model reads 16"):
        said("Q", 16)


def test_cut_items_are_counted_at_the_very_token() -> None:
    made = lm(LocalizedLM, 16)
    given = {"max_gen_toks": 6}
    lengths = [9, 10, 11, 30]
    generated = [{"doc_id": i, "arguments": [("x" * n, given)]} for i, n in enumerate(lengths)]
    assert [cut_items(made, [sample]) for sample in generated] == [0, 0, 1, 1]
    scored = [{"doc_id": i, "arguments": [("x", " y"), ("x" * n, " yes")]} for i, n in enumerate([12, 13, 14, 14])]
    assert [cut_items(made, [sample]) for sample in scored] == [0, 0, 1, 1]
    assert cut_items(made, [*scored, *scored]) == 2, "an item counts once, however many definitions it is scored by"


def test_evaluations_count_items_and_not_choices(tmp_path: Path) -> None:
    rows = [
        {"id": str(i), "prompt": "x" * n, "choices": ["yes", "no"], "gold": 0} for i, n in enumerate([5, 20, 70, 90])
    ]
    write_jsonl(tmp_path / "test.jsonl", rows)
    model = tiny_model("llama", vocab_size=259, max_position_embeddings=32)
    scores, samples = evaluate(
        model, byte_tokenizer(), load_task("arc_challenge"), tmp_path / "test.jsonl", batch_size=2
    )
    assert (scores["n_items"], scores["n_truncated"], len(samples)) == (4, 2, 4)


def test_text_beyond_the_window_is_not_scored() -> None:
    model = tiny_model("llama", vocab_size=259, max_position_embeddings=32)
    with pytest.raises(FitError, match="a window of text has 40 tokens and the model reads 32"):
        score_text(model, None, byte_tokenizer(), [{"id": "a", "text": "x" * 40}], "plain")


def test_tables_and_report_say_how_many_prompts_were_cut(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint", max_position_embeddings=128)
    made = fitted_table(tiny_config(tmp_path, {"base": None, "lora": {"params": {"epochs": 1, "lr": 0.01}}}))
    for node in made.evaluations.values():
        evaluate_node.run(made, node)
    for part in (ALL, MAIN):
        collect_results(made, part)
    results = pd.read_parquet(tmp_path / "results" / "results.parquet").set_index("method")
    once = results[~results.index.duplicated()]
    assert once["status"]["lora"].startswith("failed: row 'listops-")
    assert "that the model reads; choose a model that reads more, or remove" in once["status"]["lora"]
    assert (once["n_truncated"]["base"], once["n_items"]["base"]) == (6, 6)
    own = made.own_evaluation(next(node for node in made.fits.values() if node.method == "base"))
    assert read_json(made.folder(own) / "results.json")["n_truncated"] == 6
    frame = comparison(made, "paper").set_index("method")
    assert frame["note"]["base"] == "listops: 6 of 6 items with a prompt cut on the left to what the model reads"
    [line] = item_remarks(results.reset_index())
    assert (line["run"], line["items"]) == (
        own.fit.id,
        "6 of 6 items with a prompt cut on the left to what the model reads",
    )
