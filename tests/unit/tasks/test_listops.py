"""ListOps: expressions, their values, and the splits."""

from __future__ import annotations

import random
import statistics
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lofit.errors import TaskError
from lofit.tasks import load_task, prepare_task
from lofit.tasks.listops.generator import Node, draw_expression, text, value

TASK = load_task("listops")


def evaluate(expression: str) -> tuple[int, int, int]:
    """Value, depth and largest number of arguments, by a stack over the tokens; independent of the generator."""
    stack: list[list] = [["root"]]
    depth = widest = 0
    for token in expression.split():
        if token.startswith("["):
            stack.append([token[1:]])
            depth = max(depth, len(stack) - 1)
        elif token == "]":
            operator, *values = stack.pop()
            widest = max(widest, len(values))
            assert len(values) >= 2
            result = {
                "MIN": lambda v: sorted(v)[0],
                "MAX": lambda v: sorted(v)[-1],
                "MED": lambda v: int(statistics.median(v)),
                "SM": lambda v: int(str(sum(v))[-1]),
            }[operator](values)
            stack[-1].append(result)
        else:
            assert token in "0123456789" and len(token) == 1
            stack[-1].append(int(token))
    ((_, result),) = stack
    return result, depth, widest


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        (Node("MAX", (2, 9, Node("MIN", (4, 7)), 0)), 9),
        (Node("MED", (1, 4)), 2),
        (Node("MED", (9, 1, 3)), 3),
        (Node("MED", (0, 9, 3, 4)), 3),
        (Node("SM", (9, 9, Node("SM", (5, 5)))), 8),
        (Node("MIN", (3, Node("MAX", (1, 2)))), 2),
    ],
)
def test_value_of_hand_computed_expressions(expression: Node, answer: int) -> None:
    assert value(expression) == answer
    assert evaluate(text(expression))[0] == answer


def test_notation() -> None:
    assert text(Node("MAX", (2, 9, Node("MIN", (4, 7)), 0))) == "[MAX 2 9 [MIN 4 7 ] 0 ]"


@given(
    st.integers(0, 2**32),
    st.integers(1, 4).flatmap(lambda low: st.tuples(st.just(low), st.integers(low, 4))),
    st.integers(2, 5),
    st.integers(0, 30),
)
def test_expressions_respect_their_limits(seed: int, depths: tuple[int, int], max_args: int, slack: int) -> None:
    low, high = depths
    max_length = 3 * high + 1 + slack
    node = draw_expression(random.Random(seed), min_depth=low, max_depth=high, max_args=max_args, max_length=max_length)
    result, depth, widest = evaluate(text(node))
    assert value(node) == result
    assert low <= depth <= high
    assert widest <= max_args
    assert len(text(node).split()) <= max_length


def test_depths_and_operators_are_all_used() -> None:
    rng = random.Random(3)
    drawn = [text(draw_expression(rng, min_depth=1, max_depth=3, max_args=4, max_length=40)) for _ in range(300)]
    depths = Counter(evaluate(expression)[1] for expression in drawn)
    assert all(60 < depths[depth] < 140 for depth in (1, 2, 3))
    operators = Counter(token for expression in drawn for token in expression.split() if token.startswith("["))
    assert set(operators) == {"[MIN", "[MAX", "[MED", "[SM"}
    assert max(operators.values()) < 1.5 * min(operators.values())


def make(seed: int = 0, **options):
    return TASK.prepare(TASK.Options(**options), 0, seed, None)


def test_rows_are_exact() -> None:
    row = make().test[0]
    head, expression, tail = row["prompt"].split("\n")
    assert head == (
        "Evaluate the list expression. MIN is the minimum, MAX the maximum, "
        "MED the median rounded down, SM the sum modulo 10."
    )
    assert tail == "Answer:"
    answer = str(evaluate(expression)[0])
    assert (row["target"], row["answers"]) == (f" {answer}", [answer])


def test_default_sizes_and_no_expression_twice() -> None:
    splits = make()
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (400, 100, 200)
    prompts = [row["prompt"] for part in (splits.train, splits.validation, splits.test) for row in part]
    assert len(set(prompts)) == 700
    assert all(row["answers"] == [str(evaluate(row["prompt"].split("\n")[1])[0])] for row in splits.train)


def test_seed_changes_train_only() -> None:
    first, again, other = make(0), make(0), make(1)
    assert first == again
    assert first.test == other.test and first.validation == other.validation
    shared = {row["prompt"] for row in first.train} & {row["prompt"] for row in other.train}
    assert len(shared) < 40


def test_more_training_rows_extend_the_smaller_set() -> None:
    assert make(n_train=50).train == make(n_train=90).train[:50]


def test_answers_are_not_lopsided() -> None:
    for part in (make().train, make().test):
        counts = Counter(row["answers"][0] for row in part)
        assert set(counts) == set("0123456789")
        assert max(counts.values()) < 0.2 * len(part)


def test_small_spaces_are_refused_in_one_line() -> None:
    with pytest.raises(TaskError, match=r"only \d+ of 500 distinct test expressions") as caught:
        make(max_depth=1, max_args=2, max_length=4, n_test=500)
    assert "\n" not in str(caught.value)


def test_expressions_that_are_hardly_ever_short_enough_are_refused() -> None:
    with pytest.raises(TaskError, match="expressions of at most 31 tokens are too rare"):
        make(min_depth=10, max_depth=10, max_args=3, max_length=31)


@pytest.mark.parametrize("bad", [{"min_depth": 3}, {"max_length": 6}, {"max_args": 1}, {"depth": 2}, {"n_train": 0}])
def test_impossible_options_are_refused(bad: dict) -> None:
    with pytest.raises(ValidationError):
        TASK.Options(**bad)


def test_prepare_task_keeps_every_generated_row(tmp_path, file_fetcher) -> None:
    sizes = {"train": 30, "validation": 10, "test": 20}
    options = TASK.Options(**{f"n_{split}": n for split, n in sizes.items()})
    prepare_task(TASK, options, 0, 4, file_fetcher(), tmp_path / "out")
    assert {split: len((tmp_path / "out" / f"{split}.jsonl").read_text().splitlines()) for split in sizes} == sizes


def test_scores(score) -> None:
    row = make().test[0]
    gold = row["answers"][0]
    wrong = str((int(gold) + 1) % 10)
    outputs = [f" {gold}", gold, f"  {gold} ", f" {gold}\nmore", f" {wrong}", "", f" {gold}.", f"\n {gold}", "\u0667"]
    rows = [row | {"id": str(i)} for i in range(len(outputs))]
    means, items = score("listops", rows, outputs)
    assert [item["exact_match"] for item in items] == [1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert [item["exact_match_strict"] for item in items] == [1, 0, 0, 1, 0, 0, 0, 0, 0]
    assert means == pytest.approx({"exact_match": 4 / 9, "exact_match_strict": 2 / 9})
    assert score.generation_kwargs["until"] == ["\n"] and score.generation_kwargs["max_gen_toks"] == 4
