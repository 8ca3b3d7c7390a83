"""Score one generated answer."""

from lofit.tasks.answers import lowered


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Compare the output with the answers in :func:`lowered` form."""
    return {"exact_match": float(lowered(results[0]) in map(lowered, doc["answers"]))}
