"""Scores of one generated answer."""


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Whether the output is one of the answers, blanks around it and case aside."""
    answers = [answer.strip().lower() for answer in doc["answers"]]
    return {"exact_match": float(results[0].strip().lower() in answers)}
