"""Score one generated answer."""

from lofit.tasks.numbers import NUMBER, parse


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Compare the first line of the output with the answer as numbers, so that 17.0 equals 17.

    ``exact_match`` takes the first number in the line; ``exact_match_strict`` requires that the line is only a number.
    """
    line, answer = results[0].split("\n")[0], parse(doc["answers"][0])
    first = NUMBER.search(line)
    return {
        "exact_match": float(first is not None and parse(first[0]) == answer),
        "exact_match_strict": float(parse(line) == answer),
    }
