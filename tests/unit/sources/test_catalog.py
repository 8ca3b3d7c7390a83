from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from lofit.sources.catalog import load_catalog
from lofit.sources.source import HubModel

ROOT = Path(__file__).parents[3]


def test_named_models_and_their_shapes() -> None:
    shapes = {name: (entry.n_layers, entry.n_heads) for name, entry in load_catalog().items()}
    assert shapes == {
        "smollm2-135m": (30, 9),
        "smollm2-135m-hub": (30, 9),
        "llama-2-7b": (32, 32),
        "llama-2-7b-chat": (32, 32),
        "llama-2-13b": (40, 40),
        "gemma-7b": (28, 16),
        "llama-3.2-1b": (16, 32),
        "llama-3.2-3b": (28, 24),
        "llama-3.1-8b": (32, 32),
        "qwen2.5-7b": (28, 28),
        "qwen3-4b": (36, 32),
        "gemma-2-2b": (26, 8),
        "gemma-3-1b": (26, 4),
        "olmo-2-1b": (16, 16),
        "truth-judge": (32, 32),
        "info-judge": (32, 32),
    }


def test_every_hub_model_that_is_compared_is_pinned_to_a_commit() -> None:
    sources = [entry.source for name, entry in load_catalog().items() if not name.endswith("-judge")]
    revisions = [source.revision for source in sources if isinstance(source, HubModel)]
    assert len(revisions) == 13
    assert all(re.fullmatch(r"[0-9a-f]{40}", revision) for revision in revisions)


def test_reading_specifications_is_light() -> None:
    code = (
        "import sys, lofit.sources.catalog, lofit.sources.fetcher, lofit.sources.models; "
        "print(sorted({'torch', 'transformers', 'datasets', 'pandas', 'huggingface_hub', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
