"""Numbers in texts: find and parse them, and make plausible wrong answers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
MAX_DIGITS = 50
"""Largest number of digits before or after the decimal point; written out, ``1e999999`` would have a million."""


def parse(text: str) -> Decimal | None:
    """Return a text as a number, ignoring commas, a dollar sign and a final full stop; None if it is no usable number.

    None is also returned for infinite numbers and for numbers that are too large or too small (see ``MAX_DIGITS``).
    """
    try:
        number = Decimal(text.strip().replace(",", "").lstrip("$").rstrip("."))
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number.adjusted()) <= MAX_DIGITS else None


def plain(number: Decimal) -> str:
    """Format a number without trailing zeros: 4.0 as 4."""
    return format(number.normalize(), "f") if number else "0"


def wrong_numbers(answer: Decimal, texts: Iterable[str], n: int = 3) -> list[str]:
    """Return up to ``n`` wrong answers to a word problem: other numbers of its texts, in order, or the answer plus one.

    Args:
        answer: the right answer.
        texts: the texts in which to look for numbers, the best source first, for example the solution (its intermediate
            results are likely mistakes) and then the problem.
        n: maximum number of wrong answers.
    """
    # In a text "10-3" is a difference, not a negative number.
    found = (Decimal(match.lstrip("-").replace(",", "")) for text in texts for match in NUMBER.findall(text))
    wrong = list(dict.fromkeys(plain(number) for number in found if number != answer))
    return wrong[:n] or [plain(answer + 1)]
