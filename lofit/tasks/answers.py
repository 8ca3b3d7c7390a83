"""Rules for right answers: equality of texts, comparison of choices, SQuAD's exact match and F1, the first span.

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
"""Difference in nats up to which log-probabilities count as equal; to this precision, our scores equal lm-eval's."""


def canonical(text: str) -> str:
    """Return the text without differences that a reader does not see: in encoding, quotes and whitespace.

    The text is brought to Unicode's normal form C (NFC). Typographic quotes and primes become ASCII quotes. Zero-width
    characters (soft hyphens, direction marks, variation selectors) are removed, except the joiners that some scripts
    need. Every run of whitespace, including no-break spaces and line breaks, becomes one space, and whitespace at both
    ends is removed. Case is kept, and so are characters that only look alike, such as full-width digits.
    """
    shown = "".join(c for c in unicodedata.normalize("NFC", text) if c in _JOINERS or not _is_invisible(c))
    return " ".join(shown.translate(_QUOTES).split())


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"


def same_text(first: str, second: str) -> bool:
    """Return whether two texts have the same :func:`canonical` form."""
    return canonical(first) == canonical(second)


def lowered(text: str) -> str:
    """Return the :func:`canonical` text in lower case: the form in which generated answers are compared."""
    return canonical(text).lower()


def wins(scores: Sequence[float], right: Sequence[bool]) -> bool:
    """Return whether a right choice scores higher than every wrong one; a tie does not count.

    Args:
        scores: log-probability of each choice in nats, or the same divided by its length.
        right: whether each choice is right.
    """
    best = max(score for score, is_right in zip(scores, right, strict=True) if is_right)
    return all(best > score + TIE for score, is_right in zip(scores, right, strict=True) if not is_right)


def by_length(scores: Sequence[float], texts: Sequence[str]) -> list[float]:
    """Divide scores by the number of characters of the text, blanks around it aside, such that equal ones stay equal.

    Texts that the tokenizer does not distinguish may differ in length (a ligature, the name of a special token).

    Args:
        scores: log-probability of each text, in nats.
        texts: the texts, none of them blank.
    """
    each = list(zip(scores, map(str.strip, texts), strict=True))
    return [max(score / len(text) for score, text in each if abs(score - own) <= TIE) for own in scores]


def tied(scores: Sequence[float], texts: Sequence[str]) -> bool:
    """Return whether different texts share the best score."""
    best = max(scores)
    return len({canonical(text) for score, text in zip(scores, texts, strict=True) if score >= best - TIE}) > 1


def normalised_answer(text: str) -> str:
    """Return the :func:`canonical` text in lower case, without ASCII punctuation, English articles and extra spaces."""
    return " ".join(_ARTICLES.sub(" ", lowered(text).translate(_PUNCTUATION)).split())


def _normalised(answers: list[str]) -> list[str]:
    """Return the normalised answers; those without words, such as a comma, only if there are no others."""
    found = list(map(normalised_answer, answers))
    return list(filter(None, found)) or found


def exact_match(output: str, answers: list[str]) -> float:
    """Return 1 if the normalised output equals one of the normalised answers, else 0."""
    return float(normalised_answer(output) in _normalised(answers))


def span_match(output: str, answers: list[str]) -> float:
    """Return 1 if the normalised output begins with the words of one of the normalised answers, else 0.

    How the output goes on does not matter, so a model that does not stop after its answer loses nothing. An answer
    without words, such as a comma, is only matched by an output without words, and only if there are no others. Never
    below :func:`exact_match`.
    """
    words = normalised_answer(output).split()
    spans = [answer.split() for answer in _normalised(answers)]
    return float(any(words[: len(span)] == span if span else not words for span in spans))


def f1(output: str, answers: list[str]) -> float:
    """Return the best F1 over the answers, computed on words; two texts without words count as equal."""
    return max(_f1(normalised_answer(output).split(), answer.split()) for answer in _normalised(answers))


def _f1(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    shared = (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted))
