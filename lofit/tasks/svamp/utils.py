"""Score one generated answer, or the end of a generated equation."""

from lofit.tasks.numbers import NUMBER, parse


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Compare the first line of the output with the answer as numbers, so that 17.0 equals 17.

    ``exact_match`` takes the first number in the line; ``exact_match_strict`` requires that the line is only a number.
    """
    line = _line(results[0])
    return _scores(doc, NUMBER.findall(line)[:1], line)


def process_equation(doc: dict, results: list[str]) -> dict[str, float]:
    """Compare what follows the last "=" in the first line of the output with the answer, as numbers.

    ``exact_match`` takes the last number there; ``exact_match_strict`` requires that there is only a number. A line
    without "=" counts as a whole.
    """
    result = _line(results[0]).rpartition("=")[2]
    return _scores(doc, NUMBER.findall(result)[-1:], result)


def _line(output: str) -> str:
    return output.split("\n")[0]


def _scores(doc: dict, found: list[str], text: str) -> dict[str, float]:
    answer = parse(doc["answers"][0])
    return {
        "exact_match": float(any(parse(number) == answer for number in found)),
        "exact_match_strict": float(parse(text) == answer),
    }
