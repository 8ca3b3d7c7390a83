"""Score one generated answer."""

from lofit.tasks.answers import canonical


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Compare the output with the answers in :func:`canonical` form, ignoring case."""
    answers = [canonical(answer).lower() for answer in doc["answers"]]
    return {"exact_match": float(canonical(results[0]).lower() in answers)}
