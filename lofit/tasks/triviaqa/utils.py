"""Score one generated answer."""

from lofit.tasks.answers import exact_match, f1


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Return exact match and F1, each for the answer that gives the highest value."""
    return {"exact_match": exact_match(results[0], doc["answers"]), "f1": f1(results[0], doc["answers"])}
