"""Scores of one generated answer."""

from lofit.tasks.numbers import NUMBER, parse


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Compare the output's first line with the answer, as numbers: 17.0 is 17.

    exact_match takes the first number in the line. exact_match_strict wants nothing but one.
    """
    line, answer = results[0].split("\n")[0], parse(doc["answers"][0])
    first = NUMBER.search(line)
    return {
        "exact_match": float(first is not None and parse(first[0]) == answer),
        "exact_match_strict": float(parse(line) == answer),
    }
