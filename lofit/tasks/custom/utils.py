"""Scores of one generated answer."""

from lofit.tasks.answers import canonical


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Whether the output is one of the answers, case and what nobody sees (:func:`canonical`) aside."""
    answers = [canonical(answer).lower() for answer in doc["answers"]]
    return {"exact_match": float(canonical(results[0]).lower() in answers)}
