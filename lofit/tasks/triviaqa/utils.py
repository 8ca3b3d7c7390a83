"""Score one generated answer."""

from lofit.tasks.answers import exact_match, f1, span_match


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Return exact match, F1 and match of the first span, each for the answer that gives the highest value."""
    return {metric.__name__: metric(results[0], doc["answers"]) for metric in (exact_match, f1, span_match)}
