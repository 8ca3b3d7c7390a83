"""Score one generated solution with both extraction rules of lm-eval's gsm8k."""

import re

from lofit.tasks.numbers import parse

STRICT = re.compile(r"#### (-?[0-9.,]+)")
FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Compare a number in the output with the answer as numbers, so that "$1,000." equals 1000.

    ``exact_match`` takes the last number of the output; ``exact_match_strict`` takes the first number after "#### ",
    the form of the training targets.
    """
    answer = parse(doc["answers"][0])
    last, marked = FLEXIBLE.findall(results[0])[-1:], STRICT.findall(results[0])[:1]
    return {
        "exact_match": float(bool(last) and parse(last[0]) == answer),
        "exact_match_strict": float(bool(marked) and parse(marked[0]) == answer),
    }
