"""Score one generated answer by the option that it names."""

import re


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Whether the first option found in the output is the one in the answer, as in ``commonsense_evaluate.py``.

    Case counts. Options are found within words too: "untrue" holds "true", and "answer12" holds "answer1".
    """
    found, right = (re.findall("|".join(doc["options"]), text)[:1] for text in (results[0], doc["answers"][0]))
    return {"extracted_acc": float(found == right != [])}
