"""Score one generated answer."""


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Compare the first line of the output with the answer.

    ``exact_match`` ignores surrounding whitespace; ``exact_match_strict`` requires the exact form of the training
    target.
    """
    line = results[0].split("\n")[0]
    strict = any(line == doc["separator"] + answer for answer in doc["answers"])
    return {"exact_match": float(line.strip() in doc["answers"]), "exact_match_strict": float(strict)}
