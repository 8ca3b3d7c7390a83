"""What was asked and answered in one test item, from the samples that lm-evaluation-harness writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answered:
    """One test item, and what a model answered.

    Attributes:
        id: name of the item.
        asked: the prompt; several if the choices differ in what they are asked after.
        right: right answers to a question that is answered in words; empty for choices.
        answer: what was answered in words; None for choices.
        choices: text, log-likelihood (nats) and whether it is right, of every choice.
    """

    id: str
    asked: list[str]
    right: list[str]
    answer: str | None
    choices: list[tuple[str, float, bool]]


def answered(sample: Mapping[str, Any]) -> Answered:
    """Read one of lm-eval's samples, of a task of this suite or of lm-eval."""
    doc, answers, target = sample["doc"], sample["filtered_resps"], str(sample["target"]).strip()
    name = str(doc.get("id", sample["doc_id"]))
    asked = list(dict.fromkeys(str(context) for context, _ in sample["arguments"]))
    if isinstance(answers[0], str):
        return Answered(name, asked, list(map(str, doc.get("answers", [sample["target"]]))), answers[0], [])
    named = [str(choice).strip() for _, choice in sample["arguments"]]
    if len(set(named)) == 1 < len(named) and "answer" in doc:  # lm-eval's winogrande, which counts options from 1
        gold = int(doc["answer"]) - 1
    else:
        gold = doc.get("gold", int(target) if target.isdecimal() else named.index(target) if target in named else None)
    labels = doc.get("labels", [at == gold for at in range(len(named))])
    choices = []
    for at, ((_, choice), (log_likelihood, _)) in enumerate(zip(sample["arguments"], answers, strict=True)):
        shown = asked[at] if len(asked) > 1 else str(choice)
        choices.append((shown.strip(), float(log_likelihood), at < len(labels) and bool(labels[at])))
    return Answered(name, asked, [], None, choices)
