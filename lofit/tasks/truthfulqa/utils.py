"""MC1 and MC2 of one question."""

import math


def process_results(doc: dict, results: list[tuple[float, bool]]) -> dict[str, float]:
    """Score the choices by their summed log-probabilities (nats), one (log-probability, is_greedy) pair per choice.

    mc1 is 1 if the best answer, choices[0], beats every incorrect one strictly. mc2 is the probability mass of the
    correct answers, normalised over all choices; the largest log-probability is subtracted before exponentiation, since
    sums over long answers underflow.
    """
    scores = [score for score, _ in results]
    labels = doc["labels"]
    wrong = [score for score, label in zip(scores, labels, strict=True) if not label]
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    right = sum(weight for weight, label in zip(weights, labels, strict=True) if label)
    return {"mc1": float(scores[0] > max(wrong)), "mc2": right / sum(weights)}
