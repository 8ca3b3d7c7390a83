"""WinoGrande splits. See README.md for the source of each choice."""

from __future__ import annotations

from lofit.errors import TaskError
from lofit.sources.source import HubDataset
from lofit.tasks.llm_adapters import FormatOptions, listed
from lofit.tasks.official import official_splits
from lofit.tasks.splits import normalised, similar_texts
from lofit.tasks.task import Harness, Row, Task, choice_row, text_field

REVISION = "01e74176c63542e6b0bcb004dcdea22d94fb67b5"


def render(item: Row, where: str, options: FormatOptions) -> Row:
    """Turn an item of the hub dataset into a row without an id.

    Scoring follows lm-eval: the log-probability of the rest of the sentence (``continuation``) after each beginning
    with the blank filled in (``contexts``). The training target is the option and the rest, after the beginning. In
    LLM-Adapters' format, the prompt asks which option fills the blank.
    """
    sentence, answer = text_field(item, "sentence", where), item.get("answer")
    names = [text_field(item, f"option{number}", where) for number in (1, 2)]
    if answer not in ("1", "2"):
        raise TaskError(f"{where}: field 'answer' must be '1' or '2', found {answer!r}; fix or remove the row")
    beginning, blank, rest = sentence.partition("_")
    rest = rest.strip()
    if not blank or not beginning.strip() or not rest:
        raise TaskError(f"{where}: field 'sentence' must hold a '_' with text on both sides, found {sentence!r}")
    gold = int(answer) - 1
    kept = {"sentence": sentence, "item": {name: item[name] for name in ("sentence", "option1", "option2", "answer")}}
    if options.format == "llm_adapters":
        asked = "Please choose the correct answer to fill in the blank to complete the given sentence:"
        instruction = f"{asked} {sentence}\n\n{listed('Option', names)} Answer format: option1/option2"
        return options.option_row(instruction, ["option1", "option2"], gold, **kept)
    row = choice_row(beginning.rstrip(), [f"{name} {rest}" for name in names], gold)
    return row | {"contexts": [beginning + name for name in names], "continuation": rest} | kept


def twins(rows: list[Row]) -> list[str]:
    """Return for every row the sentence of the first of its twins.

    Twins have the same two options and nearly the same words. The hub's data lack the ids that would tell. Options
    alone do not: names recur in many sentences.
    """
    options = [frozenset(normalised(row["item"][name]) for name in ("option1", "option2")) for row in rows]
    return similar_texts([row["sentence"] for row in rows], options)


TASK = Task(
    name="winogrande",
    summary="find out whom or what a blank stands for (WinoGrande)",
    objective="sft",
    folds=(0,),
    headline="acc",
    licence="CC-BY",
    Options=FormatOptions,
    prepare=official_splits(
        "winogrande",
        HubDataset(repo="allenai/winogrande", revision=REVISION, config="winogrande_xl", split="train"),
        render,
        test="validation",
        group_by="sentence",
        with_options=True,
        cluster=twins,
    ),
    overlap_key="sentence",
    cluster_key="cluster",
    harness=Harness(("winogrande/default.yaml",), "acc"),
)
