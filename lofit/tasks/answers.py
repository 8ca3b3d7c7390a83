"""When an answer counts as right: texts that are the same, choices that win, and SQuAD's exact match and F1.

Exact match and F1 are those of SQuAD's evaluation script (arXiv 1606.05250, section 6.1).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_QUOTES = str.maketrans("\u2018\u2019\u201a\u201b\u2032\u201c\u201d\u201e\u201f\u2033", "'" * 5 + '"' * 5)
_JOINERS = "\u200c\u200d"
TIE = 1e-4
"""Nats within which log-probabilities count as equal: to this our scores are those of lm-eval's stock model."""


def canonical(text: str) -> str:
    """The text without differences that nobody sees: composed characters, straight quotes, plain blanks.

    Unicode's normal form C; typographic quotes and primes become ASCII ones; characters without a width (soft hyphens,
    marks of direction, selectors of a variant) are dropped, but for the joiners that some scripts are written with;
    every run of blanks, no-break spaces and line breaks among them, becomes one space, and none is left at the ends.
    Case stays, and so do characters that only look alike, such as full-width digits.
    """
    shown = "".join(c for c in unicodedata.normalize("NFC", text) if c in _JOINERS or not _is_invisible(c))
    return " ".join(shown.translate(_QUOTES).split())


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"


def same_text(first: str, second: str) -> bool:
    """Whether two texts are the same to a reader."""
    return canonical(first) == canonical(second)


def wins(scores: Sequence[float], right: Sequence[bool]) -> bool:
    """Whether a right choice scores above every wrong one; a tie is no win.

    Args:
        scores: log-probability of each choice, in nats, or that by its length.
        right: which choices are.
    """
    best = max(score for score, is_right in zip(scores, right, strict=True) if is_right)
    return all(best > score + TIE for score, is_right in zip(scores, right, strict=True) if not is_right)


def by_length(scores: Sequence[float], texts: Sequence[str]) -> list[float]:
    """Scores by the number of characters; those that are equal stay so, whatever texts they are of.

    Texts that the tokenizer does not tell apart may have different lengths (a ligature, a special token's name).

    Args:
        scores: log-probability of each text, in nats.
        texts: none of them empty.
    """
    each = list(zip(scores, texts, strict=True))
    return [max(score / len(text) for score, text in each if abs(score - own) <= TIE) for own in scores]


def tied(scores: Sequence[float], texts: Sequence[str]) -> bool:
    """Whether different texts share the best score."""
    best = max(scores)
    return len({canonical(text) for score, text in zip(scores, texts, strict=True) if score >= best - TIE}) > 1


def normalised_answer(text: str) -> str:
    """:func:`canonical`, lower-cased, without ASCII punctuation and English articles, whitespace collapsed."""
    return " ".join(_ARTICLES.sub(" ", canonical(text).lower().translate(_PUNCTUATION)).split())


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
