"""WikiText-2 documents for language modelling, for evaluation only. See README.md for the source of each choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit.sources.source import HubDataset
from lofit.tasks.task import Splits, Task, TaskOptions, text_field

if TYPE_CHECKING:
    from lofit.sources.fetcher import Fetcher

REPO = "EleutherAI/wikitext_document_level"
REVISION = "647234772b9554e208af6c826f23b99e3cac88c8"
HUB = HubDataset(repo=REPO, revision=REVISION, config="wikitext-2-raw-v1", split="test")


def prepare(options: TaskOptions, fold: int, seed: int, fetcher: Fetcher) -> Splits:
    """Read the official test split as published, one document per row."""
    pages = [text_field(item, "page", f"{REPO} row {i}") for i, item in enumerate(fetcher.hub_rows(HUB))]
    return Splits(test=[{"id": f"wikitext-{i}", "text": page} for i, page in enumerate(pages)])


TASK = Task(
    name="wikitext",
    summary="cross-entropy, and KL divergence from the base model, on held-out articles (WikiText-2)",
    objective=None,
    folds=(0,),
    headline="cross_entropy",
    licence="CC-BY-SA-3.0",
    Options=TaskOptions,
    prepare=prepare,
    overlap_key="text",
    plain_text=True,
)
