"""Scores of one generated answer."""

from lofit.tasks.answers import exact_match, f1


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Exact match and F1 against the best of the answers."""
    return {"exact_match": exact_match(results[0], doc["answers"]), "f1": f1(results[0], doc["answers"])}
