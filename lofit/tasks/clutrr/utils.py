"""Score one generated answer."""

import re

from lofit.tasks.answers import span_match

_IN_LAW = re.compile(r"[\s-]+in[\s-]+law\b", re.IGNORECASE)


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Compare the output with the relation; exact metrics cut at the first full stop, strip and lower-case.

    ``exact_match`` reads the first line only. ``exact_match_strict`` is the authors' rule: it reads everything up to
    the next "'s" at the end of a line, over any number of lines, so an output that continues after the answer fails.
    ``span_match`` asks whether the output begins with the relation, over line breaks too.
    """
    output = results[0]
    gold = [answer.lower() for answer in doc["answers"]]

    def matches(text: str) -> float:
        return float(text.split(".")[0].strip().lower() in gold)

    return {
        "exact_match": matches(output.split("\n")[0]),
        "exact_match_strict": matches(output.split("'s\n")[0]),
        # "mother in law" is no mother; span_match drops the hyphens of "mother-in-law"
        "span_match": span_match(_IN_LAW.sub("inlaw", output), doc["answers"]),
    }
