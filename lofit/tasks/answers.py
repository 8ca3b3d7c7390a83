"""Exact match and F1 of a short answer, as SQuAD's evaluation script defines them (arXiv 1606.05250, section 6.1)."""

from __future__ import annotations

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised_answer(text: str) -> str:
    """Lower-case, drop ASCII punctuation and English articles, collapse whitespace."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(output: str, answers: list[str]) -> float:
    """1 if the output is one of the answers, else 0."""
    return float(normalised_answer(output) in {normalised_answer(answer) for answer in answers})


def f1(output: str, answers: list[str]) -> float:
    """Best F1 of the words shared with an answer; two texts without words are equal."""
    return max(_f1(normalised_answer(output).split(), normalised_answer(answer).split()) for answer in answers)


def _f1(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    shared = (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted))
