"""Score one generated answer."""

from lofit.tasks.answers import lowered, span_match


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Compare the first line of the output, lower-cased, with the new answer and its aliases.

    ``exact_match`` compares the :func:`lowered` forms, so it ignores, for example, how an accent is encoded and
    whitespace at the ends. ``exact_match_strict`` does not: the line (after its last "A:", as in the authors' script)
    must be the separator of the training targets followed by an answer. With glued targets, the separator is empty and
    this is the authors' metric. ``span_match`` asks whether the output begins with an answer (see there).
    """
    line = results[0].split("\n")[0]
    exact = lowered(line) in map(lowered, doc["answers"])
    strict = line.split("A:")[-1].lower() in [doc["separator"] + answer.lower() for answer in doc["answers"]]
    return {
        "exact_match": float(exact),
        "exact_match_strict": float(strict),
        "span_match": span_match(results[0], doc["answers"]),
    }
