"""Tasks with official splits on the hub: golden rows, sizes, prompts of lm-eval, broken rows, scores."""

from __future__ import annotations

from decimal import Decimal
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.tasks.manager import load_yaml
from lm_eval.utils import apply_template

from lofit.errors import TaskError
from lofit.evaluation.harness import evaluate
from lofit.files import write_jsonl
from lofit.spec.protocol import HARNESS
from lofit.tasks import load_task
from lofit.tasks.numbers import parse, plain, wrong_numbers
from lofit.tasks.winogrande.prepare import twins
from tests.checkpoint import byte_tokenizer
from tests.tiny import tiny_model

GOLDEN = yaml.safe_load(Path(__file__).with_name("golden.yaml").read_text(encoding="utf-8"))
LIKE_LM_EVAL = ["arc_challenge", "boolq", "openbookqa", "siqa", "winogrande"]
ITEMS: dict[str, dict[str, Any]] = {
    "arc_challenge": {"question": "Why?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
    "openbookqa": {"question_stem": "Why", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B "},
    "boolq": {"question": "is it", "passage": "It is.", "answer": True},
    "winogrande": {"sentence": "Al saw Bo so _ ran .", "option1": "Al", "option2": "Bo", "answer": "2"},
    "svamp": {"Body": "Al has 3 pens", "Question": "How many are 3 and 4 more?", "Answer": "7.0"},
    "gsm8k": {"question": "What is 1,000+1?", "answer": "It is 1,000+1=$<<1000+1=1001>>1,001.\n#### 1,001"},
    "aqua": {"question": "Why?", "options": ["A)1", "B) 2", "C)3", "D)4", "E)5"], "correct": "B"},
}


def render(name: str, item: dict[str, Any], **options: Any) -> Any:
    """The row of an item; some tasks render it by their options."""
    made = import_module(f"lofit.tasks.{name}.prepare").render
    more = [load_task(name).Options(**options)] if "options" in signature(made).parameters else []
    return made(item, "row 3", *more)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_rows_and_sizes(name: str, splits: Any) -> None:
    made = splits(name)
    assert [len(part) for part in (made.train, made.validation, made.test)] == GOLDEN[name]["sizes"]
    for golden in GOLDEN[name]["rows"]:
        row = made.test[golden["index"]]
        expected = {key: value for key, value in golden.items() if key not in ("index", "wrong")}
        assert {key: row[key] for key in expected} == expected
        assert row["contrast"]["prompt"] == row["prompt"]
        assert row["contrast"]["wrong"] == golden["wrong"]


@pytest.mark.parametrize("name", GOLDEN)
def test_texts_that_belong_together_stay_together(name: str, splits: Any) -> None:
    made, again = splits(name), splits(name, seed=7)
    assert made == again, "the run's seed plays no part in the cut"
    key = load_task(name).overlap_key
    parts = [{" ".join(row[key].lower().split()) for row in part} for part in (made.train, made.validation)]
    assert not parts[0] & parts[1]
    assert len({row["id"] for part in (made.train, made.validation, made.test) for row in part}) == sum(
        GOLDEN[name]["sizes"]
    )


@pytest.mark.parametrize("name", ["arc_challenge", "openbookqa", "gsm8k"])
def test_prompts_are_those_of_lm_eval(name: str) -> None:
    task = load_task(name)
    assert task.harness
    stock = load_yaml(Path(lm_eval.__file__).parent / "tasks" / task.harness.definitions[0])
    row = render(name, ITEMS[name])
    template = stock["doc_to_text"]
    expected = ITEMS[name][template] if template in ITEMS[name] else apply_template(template, ITEMS[name])
    assert row["prompt"] == expected


def test_small_rows() -> None:
    assert render("boolq", ITEMS["boolq"])["prompt"] == "It is.\nQuestion: is it?\nAnswer:"
    assert render("arc_challenge", ITEMS["arc_challenge"])["target"] == " y"
    assert render("openbookqa", ITEMS["openbookqa"])["gold"] == 1
    wino = render("winogrande", ITEMS["winogrande"])
    assert (wino["prompt"], wino["target"]) == ("Al saw Bo so", " Bo ran .")
    assert (wino["contexts"], wino["continuation"]) == (["Al saw Bo so Al", "Al saw Bo so Bo"], "ran .")
    assert wino["contrast"]["wrong"] == [" Al ran ."]
    svamp = render("svamp", ITEMS["svamp"])
    assert svamp["prompt"] == "Question: Al has 3 pens. How many are 3 and 4 more?\nAnswer:"
    assert (svamp["target"], svamp["contrast"]["wrong"]) == (" 7", [" 3", " 4"])
    gsm = render("gsm8k", ITEMS["gsm8k"])
    assert gsm["target"] == " It is 1,000+1=$1,001.\n#### 1,001"
    assert (gsm["answers"], gsm["contrast"]["wrong"]) == (["1001"], [" 1000", " 1"])
    aqua = render("aqua", ITEMS["aqua"])
    assert aqua["prompt"] == "Question: Why?\nA. 1\nB. 2\nC. 3\nD. 4\nE. 5\nAnswer:"
    assert aqua["target"] == " B"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("arc_challenge", {"answerKey": "3"}, "field 'answerKey' must be one of ['1', '2'], found '3'"),
        ("arc_challenge", {"choices": {"text": ["x"], "label": ["1", "2"]}}, "as many texts as labels"),
        ("arc_challenge", {"choices": None}, "field 'text' must be a list"),
        ("openbookqa", {"answerKey": ""}, "field 'answerKey'"),
        ("openbookqa", {"choices": {"text": ["x", ""], "label": ["A", "B"]}}, "as many texts as labels"),
        ("boolq", {"answer": 1}, "field 'answer' must be true or false, found 1"),
        ("boolq", {"passage": " "}, "field 'passage'"),
        ("winogrande", {"answer": ""}, "field 'answer' must be '1' or '2', found ''"),
        ("winogrande", {"sentence": "No blank."}, "must hold a '_' with text on both sides"),
        ("winogrande", {"sentence": "_ ran."}, "must hold a '_' with text on both sides"),
        ("svamp", {"Answer": "seven"}, "field 'Answer' must be a number, found 'seven'"),
        ("svamp", {"Answer": "inf"}, "field 'Answer' must be a number"),
        ("gsm8k", {"answer": "It is 7."}, "must end with '#### ' and a number"),
        ("gsm8k", {"answer": "It is 7.\n#### seven"}, "must end with '#### ' and a number"),
        ("aqua", {"correct": "F"}, "field 'correct' must be A to E, found 'F'"),
        ("aqua", {"options": ["A)1", "C)2"]}, "must be five texts"),
    ],
)
def test_malformed_rows_are_one_line(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError) as caught:
        render(name, ITEMS[name] | change)
    assert str(caught.value).startswith("row 3")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", LIKE_LM_EVAL)
def test_our_protocol_asks_what_lm_eval_asks(name: str, splits: Any, tmp_path: Path) -> None:
    """Their prompts and choices are ours too, so both protocols make the same requests and give the same scores."""
    write_jsonl(tmp_path / "test.jsonl", splits(name).test[:4])
    model = tiny_model("llama", vocab_size=259, max_position_embeddings=4096)
    task, runs = load_task(name), []
    for options in ({}, {"protocol": HARNESS}):
        runs.append(evaluate(model, byte_tokenizer(), task, tmp_path / "test.jsonl", batch_size=4, **options))
    (ours, mine), (theirs, other) = runs
    assert [sample["arguments"] for sample in mine] == [sample["arguments"] for sample in other]
    assert {name: value["value"] for name, value in ours["metrics"].items() if name in theirs["metrics"]} == {
        name: value["value"] for name, value in theirs["metrics"].items()
    }


@pytest.mark.parametrize("name", ["arc_challenge", "openbookqa", "boolq", "aqua"])
def test_scores_of_choices(name: str, score: Any) -> None:
    row = render(name, ITEMS[name])
    n = len(row["choices"])
    right, wrong = [-9.0] * n, [-1.0] * n
    right[row["gold"]], wrong[row["gold"]] = -1.0, -9.0
    means, items = score(name, [row | {"id": "a"}, row | {"id": "b"}], [right, wrong])
    assert [item["acc"] for item in items] == [1, 0]
    assert means["acc"] == 0.5


def test_winogrande_is_scored_by_what_follows(tmp_path: Path) -> None:
    rows = [render("winogrande", ITEMS["winogrande"]) | {"id": str(i)} for i in range(2)]
    rows[1]["gold"] = 0
    write_jsonl(tmp_path / "test.jsonl", rows)
    model = tiny_model("llama", vocab_size=259, max_position_embeddings=4096)
    _, samples = evaluate(model, byte_tokenizer(), load_task("winogrande"), tmp_path / "test.jsonl", batch_size=4)
    first, second = ([response[0] for response in sample["filtered_resps"]] for sample in samples)
    assert first == second
    assert [sample["acc"] for sample in samples] == [float(first[1] > first[0]), float(first[0] > first[1])]


def test_twins_have_the_same_names_and_nearly_the_same_words(splits: Any) -> None:
    names, others = {"option1": "Al", "option2": "Bo"}, {"option1": "Bo", "option2": "Cy"}
    rows = [
        {"sentence": "Al saw Bo so _ ran away .", "item": names},
        {"sentence": "Al paid for what Bo ate as _ was rich .", "item": names},
        {"sentence": "Al saw Bo so _ hid away .", "item": {"option1": "bo", "option2": "al"}},
        {"sentence": "Al saw Bo so _ ran away !", "item": others},
    ]
    first, second, _, last = (row["sentence"] for row in rows)
    assert twins(rows) == [first, second, first, last]
    answers: dict[str, list[int]] = {}
    for row in splits("winogrande").test:
        answers.setdefault(row["cluster"], []).append(row["gold"])
    pairs = [found for found in answers.values() if len(found) == 2]
    assert len(pairs) == 174 and all(sorted(pair) == [0, 1] for pair in pairs)


@pytest.mark.parametrize(
    ("output", "loose", "strict"),
    [
        (" 17", 1, 1),
        ("17.0\nQuestion", 1, 1),
        (" 17 pens", 1, 0),
        ("$17.", 1, 1),
        ("16 + 1 = 17", 0, 0),
        ("-17", 0, 0),
        ("", 0, 0),
        ("siebzehn", 0, 0),
        ("\uff11\uff17", 1, 1),
    ],
)
def test_scores_of_svamp(score: Any, output: str, loose: float, strict: float) -> None:
    _, (item,) = score("svamp", [{"id": "a", "prompt": "Question: x\nAnswer:", "answers": ["17"]}], [output])
    assert (item["exact_match"], item["exact_match_strict"]) == (loose, strict)


EQUATION = {"target": "equation"}


@pytest.mark.parametrize(
    ("published", "written"),
    [
        ("( 3.0 + 4.0 )", "3 + 4"),
        ("( ( 4.0 - 2.0 ) + 5.0 )", "4 - 2 + 5"),
        ("( 9.0 - ( 4.0 - 2.0 ) )", "9 - (4 - 2)"),
        ("( ( 8.0 - 1.0 ) / 0.5 )", "(8 - 1) / 0.5"),
        ("7.0", "7"),
    ],
)
def test_equations_of_svamp(published: str, written: str) -> None:
    row = render("svamp", ITEMS["svamp"] | {"Equation": published}, **EQUATION)
    assert row["prompt"] == (
        "Write an equation that gives the answer.\nQuestion: Al has 3 pens. How many are 3 and 4 more?\nEquation:"
    )
    assert (row["target"], row["answers"]) == (f" {written} = 7", ["7"])
    assert row["contrast"]["right"] == [row["target"]]
    assert row["contrast"]["wrong"] == [f" {written} = 3", f" {written} = 4"]


@pytest.mark.parametrize(
    "equation",
    [
        None,
        7,
        "",
        "x",
        "3 +",
        "( )",
        "3 ( 4 )",
        "3 / / 2",
        "3 * * 2",
        "inf",
        "+ " * 9999 + "1",
        "( " * 999 + "1" + " )" * 999,
    ],
)
def test_what_is_no_equation_is_one_line(equation: Any) -> None:
    with pytest.raises(TaskError, match="row 3: field 'Equation' must be ") as caught:
        render("svamp", ITEMS["svamp"] | {"Equation": equation}, **EQUATION)
    assert "\n" not in str(caught.value)


def test_items_of_svamp_do_not_depend_on_the_target(splits: Any) -> None:
    made = [splits("svamp", **options) for options in ({}, EQUATION)]
    for split in ("train", "validation", "test"):
        plain, other = ([(row["question"], row["answers"]) for row in getattr(of, split)] for of in made)
        assert plain == other


OUTPUTS = {
    " 16 + 1 = 17": (1, 1),
    " 16 + 1 = 17 pens": (1, 0),
    " 15 + 1 = 16 = 17.0\n\nQuestion: 3": (1, 1),
    " 16 + 1 = 1 + 16 or 17": (1, 0),
    " 17 = 16 + 1": (0, 0),
    " 16 + 1 =": (0, 0),
    " 16 + 1": (0, 0),
    " = -17": (0, 0),
    " 17": (1, 1),
    "": (0, 0),
    "\n 17": (0, 0),
}


def test_scores_of_equations_are_those_of_their_end(score: Any) -> None:
    rows = [{"id": str(i), "prompt": f"{i}\nEquation:", "answers": ["17"]} for i in range(len(OUTPUTS))]
    _, items = score("svamp", rows, list(OUTPUTS), **EQUATION)
    found = {
        output: (item["exact_match"], item["exact_match_strict"]) for output, item in zip(OUTPUTS, items, strict=True)
    }
    assert found == OUTPUTS
    assert score.generation_kwargs["max_gen_toks"] == 32


SOLUTIONS = [
    "It is 2+2=4.\n#### 4",
    "#### 4\n#### 5",
    "The answer is 4",
    "so 4.",
    "#### $4",
    "#### 4,000",
    "4 then 5",
    "####4",
    "",
    "vier",
    "#### 4.0",
    "= 3\n#### 4 apples and 7",
]


@pytest.mark.parametrize("output", SOLUTIONS)
def test_scores_of_gsm8k_are_those_of_lm_eval(score: Any, output: str) -> None:
    """Its filters and its normalisation; only a number written in another way (4.0) is right here and wrong there."""
    from lm_eval.api.metrics import exact_match_fn
    from lm_eval.filters.extraction import RegexFilter

    stock = load_yaml(Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml")
    expected = {}
    for pipeline in stock["filter_list"]:
        options = {key: value for key, value in pipeline["filter"][0].items() if key != "function"}
        extracted = RegexFilter(**options).apply([[output]], [{}])[0][0]
        metric = stock["metric_list"][0]
        kept = {key: metric[key] for key in ("ignore_case", "ignore_punctuation", "regexes_to_ignore")}
        found = exact_match_fn(predictions=[extracted], references=["2+2=4\n#### 4"], **kept)
        expected[pipeline["name"]] = float(found["exact_match"])
    _, (item,) = score("gsm8k", [{"id": "a", "prompt": "Question: x\nAnswer:", "answers": ["4"]}], [output])
    if output == "#### 4.0":
        expected = dict.fromkeys(expected, 1.0)
    assert (item["exact_match"], item["exact_match_strict"]) == (expected["flexible-extract"], expected["strict-match"])


@given(st.decimals(-10000, 10000, places=2), st.lists(st.text(max_size=20), max_size=3))
def test_wrong_numbers_are_wrong_and_numbers(answer: Decimal, texts: list[str]) -> None:
    wrong = wrong_numbers(answer, texts)
    assert 1 <= len(wrong) <= 3
    assert all((number := parse(text)) is not None and number != answer for text in wrong)
    assert parse(plain(answer)) == answer


@pytest.mark.parametrize("text", ["1e999999", "1e-999999", "-Infinity", "NaN", "9" * 60, ""])
def test_a_number_of_absurd_size_is_none(text: str) -> None:
    assert parse(text) is None
