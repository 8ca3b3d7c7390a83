"""Numbers in texts: finding them, comparing them, and wrong ones that could be taken for right."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
MAX_DIGITS = 50
"""In front of and behind the point of a number: ``1e999999`` would be a text of a million."""


def parse(text: str) -> Decimal | None:
    """The number that a text is, commas and a dollar sign aside; None if it is none, or one of absurd size."""
    try:
        number = Decimal(text.strip().replace(",", "").lstrip("$").rstrip("."))
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number.adjusted()) <= MAX_DIGITS else None


def plain(number: Decimal) -> str:
    """Write a number without needless zeros: 4.0 as 4."""
    return format(number.normalize(), "f") if number else "0"


def wrong_numbers(answer: Decimal, texts: Iterable[str], n: int = 3) -> list[str]:
    """Return up to ``n`` wrong answers to a word problem: other numbers of its texts, in order, or the answer plus one.

    Args:
        answer: the right one.
        texts: the problem and, if there is one, its solution, whose intermediate results are the likeliest mistakes.
        n: how many.
    """
    # In a text "10-3" is a difference, not a negative number.
    found = (Decimal(match.lstrip("-").replace(",", "")) for text in texts for match in NUMBER.findall(text))
    wrong = list(dict.fromkeys(plain(number) for number in found if number != answer))
    return wrong[:n] or [plain(answer + 1)]
