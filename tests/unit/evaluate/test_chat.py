"""Prompts worded by a chat template: the same text in training, activations and scoring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from lofit.activations.last_token import contrast_texts, encode_texts
from lofit.config import parse_config
from lofit.errors import ConfigError, TaskError
from lofit.evaluation.harness import evaluate
from lofit.files import write_jsonl
from lofit.models.chat import chat_prompt, in_chat
from lofit.models.encoding import encode_rows
from lofit.plan.table import RunTable
from lofit.tasks import load_task
from tests.checkpoint import byte_tokenizer
from tests.sessions import PAIRS, ROWS, session
from tests.tiny import tiny_model
from tests.unit.evaluate.test_harness import CHOICES, SUMS, answer_log_prob
from tests.unit.test_config import put

TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
SYSTEM = {"system": "Be brief."}


def chatting(template: str = TEMPLATE) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def worded(prompt: str) -> str:
    return f"[system]Be brief.</s>[user]{prompt}</s>[assistant]"


def model() -> Any:
    return tiny_model("llama", vocab_size=259, max_position_embeddings=512).eval()


@pytest.mark.parametrize(("objective", "rows"), [("sft", ROWS[:3]), ("dpo", PAIRS[:3])])
def test_training_reads_the_message_and_an_answer_without_the_blank(objective: str, rows: list[Any]) -> None:
    tokenizer = chatting()
    encoded = encode_rows(tokenizer, in_chat(rows, tokenizer, **SYSTEM), objective, 512)
    for row, texts in zip(rows, encoded, strict=True):
        answers = [row["target"]] if objective == "sft" else [row["chosen"], row["rejected"]]
        for text, answer in zip(texts, answers, strict=True):
            prompt = worded(row.get("prompt") or row["train_prompt"])
            assert tokenizer.decode(text.ids[: text.answer_start]) == prompt
            assert tokenizer.decode(text.ids[text.answer_start :]) == answer.lstrip() + "</s>"


def test_activations_are_of_the_same_texts() -> None:
    tokenizer = chatting()
    opened = session(train=in_chat(ROWS[:2], tokenizer, **SYSTEM), validation=[])
    opened.tokenizer = tokenizer
    texts = encode_texts(opened, contrast_texts({"train": opened.train}))
    assert [tokenizer.decode(text.ids) for text in texts] == [
        worded(row["prompt"]) + answer.lstrip() + "</s>"
        for row in ROWS[:2]
        for side in ("right", "wrong")
        for answer in row["contrast"][side]
    ]


def test_choices_are_scored_after_the_template(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", CHOICES)
    scored, tokenizer = model(), chatting()
    siqa = load_task("siqa")
    _, samples = evaluate(scored, tokenizer, siqa, tmp_path / "test.jsonl", batch_size=4, chat=SYSTEM)
    for row, sample in zip(CHOICES, samples, strict=True):
        expected = [answer_log_prob(scored, worded(row["prompt"]), choice) for choice in row["choices"]]
        assert [response[0] for response in sample["filtered_resps"]] == pytest.approx(expected, rel=1e-4)


def test_examples_are_part_of_the_message_and_answers_are_generated_after_it(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", SUMS)
    shots = [{"prompt": "7+1=", "target": " 8"}]
    _, samples = evaluate(
        model(), chatting(), load_task("listops"), tmp_path / "test.jsonl", batch_size=4, shots=shots, chat=SYSTEM
    )
    asked = [sample["arguments"][0][0] for sample in samples]
    assert asked == [worded(f"7+1= 8\n\n{row['prompt']}") for row in SUMS]
    assert all(sample["doc"]["separator"] == "" for sample in samples)


def test_lm_evals_own_prompts_are_worded_too(tmp_path: Path) -> None:
    item = {"question": "Is it?", "passage": "It is.", "label": 1}
    write_jsonl(tmp_path / "test.jsonl", [{"id": "a", "item": item}])
    boolq = load_task("boolq")
    _, [sample] = evaluate(
        model(), chatting(), boolq, tmp_path / "test.jsonl", batch_size=2, protocol="harness-chat", chat=SYSTEM
    )
    for context, choice in sample["arguments"]:
        assert context.startswith("[system]Be brief.</s>[user]It is.") and context.endswith("</s>[assistant]")
        assert choice in ("no", "yes")


def test_a_blank_is_filled_in_the_answer_that_was_trained(tmp_path: Path) -> None:
    """Winogrande scores the rest of a sentence whose first words the model has begun, as the target begins."""
    row = {
        "id": "a", "prompt": "Al saw Bo so", "target": " Bo ran.", "choices": ["Al ran.", "Bo ran."], "gold": 1,
        "contexts": ["Al saw Bo so Al", "Al saw Bo so Bo"], "continuation": "ran.",
    }  # fmt: skip
    write_jsonl(tmp_path / "test.jsonl", [row])
    task, tokenizer = load_task("winogrande"), chatting()
    _, [sample] = evaluate(model(), tokenizer, task, tmp_path / "test.jsonl", batch_size=2, chat=SYSTEM)
    [trained] = in_chat([row], tokenizer, **SYSTEM)
    assert sample["arguments"] == [(worded("Al saw Bo so") + name, " ran.") for name in ("Al", "Bo")]
    assert "".join(sample["arguments"][1]) == trained["prompt"] + trained["target"]


def test_reachable_answers_are_those_after_the_template(tmp_path: Path) -> None:
    """Without the blank, an answer of as many tokens as are generated still fits."""
    rows = [SUMS[0] | {"answers": ["1" * 16]}]
    write_jsonl(tmp_path / "test.jsonl", rows)
    mquake = load_task("mquake")
    counts = [
        evaluate(model(), chatting(), mquake, tmp_path / "test.jsonl", batch_size=1, chat=chat)[0]["n_unreachable"]
        for chat in (None, SYSTEM)
    ]
    assert counts == [1, 0]


def test_a_template_that_tells_the_date_is_the_same_on_every_day() -> None:
    told = chatting(
        "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "{{ date_string }}, {{ strftime_now('%Y-%m-%d') }}: {{ messages[0]['content'] }}"
    )
    assert chat_prompt(told, "x") == "26 Jul 2024, 2024-07-26: x"


def test_a_model_without_a_template_and_a_template_that_refuses() -> None:
    with pytest.raises(TaskError, match=r"no chat template; choose an instruct model"):
        chat_prompt(byte_tokenizer(), "x")
    refusing = chatting("{{ raise_exception('System role not supported') }}")
    with pytest.raises(TaskError, match=r"System role not supported.*system message"):
        chat_prompt(refusing, "x", "Be brief.")


def test_the_protocol_is_part_of_every_node_and_the_system_message_of_its_identity() -> None:
    def table(**keys: Any) -> RunTable:
        return RunTable(parse_config(put("protocols", ["paper"]) | keys, "chat.yaml"))

    plain, chat = table(), table(protocols=["paper-chat"])
    brief = table(protocols=["paper-chat"], system="Be brief.")
    ids = [set(made.fits) | set(made.localize) | set(made.data) for made in (plain, chat, brief)]
    assert not any(a & b for a, b in zip(ids, ids[1:] + ids[:1], strict=True))
    assert all("/eval/paper-chat/" in id for id in chat.evaluations)
    assert "chat" not in next(iter(plain.data.values())).identity
    texts = table(protocols=["paper-chat"], retention={"wikitext": {"options": {"n_test": 2}}})
    [plain_text] = {node.protocol for node in texts.evaluations.values() if node.data.task == "wikitext"}
    assert plain_text == "paper", "what is no prompt has no template"
    for protocol, method, task, remedy in (
        ("paper-chat", "repe_contrast", "mquake", "; remove it"),
        ("harness-chat", "fewshot", "boolq", "; add paper-chat to protocols"),
    ):
        config = put(f"methods/{method}", {}) | {"tasks": {task: {}}, "protocols": [protocol]}
        with pytest.raises(ConfigError, match=f"methods.{method}: not scored under {protocol} .*{remedy}"):
            parse_config(config, "chat.yaml")
