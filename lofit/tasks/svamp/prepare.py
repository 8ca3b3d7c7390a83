"""SVAMP splits. See README.md for the source of each choice."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from lofit.errors import TaskError
from lofit.sources.source import HubDataset
from lofit.tasks.numbers import parse, plain, wrong_numbers
from lofit.tasks.official import official_splits
from lofit.tasks.splits import similar_texts
from lofit.tasks.task import Row, Task, TaskOptions, contrast, text_field

REVISION = "5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef"
EQUATION = Path(__file__).with_name("equation.yaml")


class Options(TaskOptions):
    """SVAMP options.

    Attributes:
        target: what the model is trained to write: the ``answer``, or an ``equation`` that ends with the answer.
    """

    WORDING: ClassVar[tuple[str, ...]] = ("target",)

    target: Literal["answer", "equation"] = "answer"

    def configured(self, task: Task) -> Task:
        """Return the task, with room for an equation if one is asked for, and the answer looked for at its end."""
        return replace(task, definition=EQUATION) if self.target == "equation" else task


def equation_text(text: str, where: str) -> str:
    """Return a published equation, such as "( ( 8.0 - 3.0 ) * 2.0 )", without needless brackets: "(8 - 3) * 2".

    Raises:
        TaskError: the text is no equation of numbers, brackets and the four operations, with blanks between them.
    """
    shown = {part: plain(number) for part in text.split() if (number := parse(part)) is not None}
    shown |= {sign: sign for sign in "()+-*/"}
    try:
        tree = ast.parse(" ".join(shown[part] for part in text.split()), mode="eval")
        if not any(isinstance(node, ast.Call | ast.Tuple | ast.Starred) for node in ast.walk(tree)):
            return ast.unparse(tree)
    except (KeyError, SyntaxError, RecursionError, MemoryError):  # the last two: brackets without end
        pass
    raise TaskError(f"{where}: field 'Equation' must be numbers, brackets and operations, found {text!r}; fix the row")


def render(item: Row, where: str, options: Options) -> Row:
    """Turn an item of the hub dataset into a row, without an id."""
    body, question = text_field(item, "Body", where).strip(), text_field(item, "Question", where).strip()
    answer = parse(str(item.get("Answer")))
    if answer is None:
        raise TaskError(f"{where}: field 'Answer' must be a number, found {item.get('Answer')!r}; fix the row")
    problem = f"{body if body[-1] in '.?!' else f'{body}.'} {question}"
    if options.target == "equation":
        prompt = f"Write an equation that gives the answer.\nQuestion: {problem}\nEquation:"
        before = f" {equation_text(text_field(item, 'Equation', where), where)} ="
    else:
        prompt, before = f"Question: {problem}\nAnswer:", ""
    wrong = [f"{before} {number}" for number in wrong_numbers(answer, [body, question])]
    target = f"{before} {plain(answer)}"
    return {
        "prompt": prompt,
        "target": target,
        "contrast": contrast(prompt, [target], wrong),
        "answers": [plain(answer)],
        "question": problem,
        "body": body,
    }


def variations(rows: list[Row]) -> list[str]:
    """Return for every row the body of the first problem of which it is a variation, up to numbers and a few words."""
    return similar_texts([row["body"] for row in rows], [""] * len(rows))


TASK = Task(
    name="svamp",
    summary="solve a word problem with one operation (SVAMP)",
    objective="sft",
    folds=(0,),
    headline="exact_match",
    licence="MIT",
    Options=Options,
    prepare=official_splits(
        "svamp",
        HubDataset(repo="ChilleD/SVAMP", revision=REVISION, config="default", split="train"),
        render,
        test="test",
        group_by="question",
        with_options=True,
        cluster=variations,
    ),
    overlap_key="question",
    cluster_key="cluster",
)
