"""Fetch models and datasets from the Hugging Face hub, at a pinned revision, and upload fitted models.

Model files stay in the cache of the hub client (HF_HOME), so a model that is already there is not downloaded again.
Every failure becomes one line; lofit/errors.py removes access tokens from messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lofit.errors import SourceError, brief
from lofit.sources.source import HubDataset, HubModel

MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
"""Files fetched from a model repository: weights as safetensors, configuration, tokenizer, chat template."""

IGNORED_FILES = ("*/*", "consolidated*")
"""Files that are not fetched: subfolders (other formats of the same weights) and second copies of the weights."""


def fetch_hub_model(source: HubModel) -> tuple[Path, str]:
    """Fetch a model repository into the hub client's cache.

    Returns:
        The snapshot folder, and the commit sha to which the revision resolves.

    Raises:
        SourceError: the repository is missing, gated or not reachable, or it is not cached and the client is offline.
    """
    from huggingface_hub import snapshot_download

    patterns = [*MODEL_FILES, *(("*.py",) if source.trust_remote_code else ())]
    with _one_line_errors("model", source.repo, source.revision):
        folder = snapshot_download(
            source.repo, revision=source.revision, allow_patterns=patterns, ignore_patterns=list(IGNORED_FILES)
        )
    return Path(folder), Path(folder).name


def fetch_hub_rows(spec: HubDataset, cache: Path) -> tuple[list[dict[str, Any]], str]:
    """Fetch one split of a hub dataset.

    The datasets library falls back to *any* cached revision if the hub cannot be reached. Each revision therefore has a
    separate cache folder, ``cache/datasets/<revision>``.

    Returns:
        The rows in the dataset's order as plain Python values, and the commit sha they come from.

    Raises:
        SourceError: the dataset, configuration or split is missing, gated or not reachable.
    """
    from datasets import load_dataset_builder

    folder = cache / "datasets" / spec.revision.replace("/", "--")
    with _one_line_errors("dataset", spec.repo, spec.revision):
        builder = load_dataset_builder(  # without the scheme, a local folder of the same name would be read instead
            f"hf://datasets/{spec.repo}", name=spec.config, revision=spec.revision, cache_dir=str(folder)
        )
        builder.download_and_prepare()
        splits = builder.info.splits or {}
        if spec.split not in splits:
            raise SourceError(
                f"dataset {spec.repo} ({spec.config}) has no split '{spec.split}'; it has {', '.join(map(str, splits))}"
            )
        rows = [dict(row) for row in builder.as_dataset(split=spec.split)]
    return rows, str(builder.hash)


def push_folder(folder: Path, repo: str, *, private: bool) -> str:
    """Upload a folder to a model repository, which is created if there is none, and return the URL of the commit.

    Raises:
        SourceError: the hub cannot be reached, or the token may not write there.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    with _one_line_errors("model", repo, "main"):
        try:
            api = HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            made = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Fitted with LoFiT Bench")
        except HfHubHTTPError as error:
            status = error.response.status_code
            remedy = "set HF_TOKEN to a token that may write there" if status in (401, 403, 404) else "try again later"
            raise SourceError(f"model {repo} cannot be pushed (HTTP {status}); {remedy}") from None
    return str(made.commit_url)


@contextmanager
def _one_line_errors(kind: Literal["model", "dataset"], repo: str, revision: str) -> Iterator[None]:
    """Turn exceptions of the hub client and the datasets library into a SourceError of one line."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except SourceError:
        raise
    except (OSError, ValueError, RuntimeError, HfHubHTTPError, HFValidationError) as error:
        raise SourceError(_explain(error, kind, repo, revision)) from None
    except Exception as error:  # the HTTP library changes between releases, so errors are recognised by their module
        if type(error).__module__.split(".")[0] in ("httpx", "httpx2", "requests", "datasets", "huggingface_hub"):
            raise SourceError(_explain(error, kind, repo, revision)) from None
        raise


def _explain(error: BaseException, kind: Literal["model", "dataset"], repo: str, revision: str) -> str:
    """Return one line that says what is wrong with the repository and what to do about it."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = f"{kind} {repo}"
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}"
    elsewhere = "use a local model source" if kind == "model" else "set data_mirror"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    text = brief(error)
    if isinstance(error, GatedRepoError) or "gated dataset" in text:
        return f"{what} is gated: accept its licence at {page} and set HF_TOKEN to a token of that account"
    if isinstance(error, RevisionNotFoundError) or re.match(r"Revision '.*' doesn't exist", text):
        return f"{what} has no revision '{revision}'; give a commit sha, tag or branch that {page} lists"
    if isinstance(error, RepositoryNotFoundError) or "doesn't exist on the Hub" in text:
        return f"{what} was not found; check the name at {page}, and set HF_TOKEN if it is private"
    if status in (401, 403):
        return f"{what}: access denied (HTTP {status}); set HF_TOKEN to a token that may read {page}"
    if constants.HF_HUB_OFFLINE:
        return f"{what} at {revision} is not in the local cache and HF_HUB_OFFLINE is set; unset it, or {elsewhere}"
    network = ("ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError", "ProxyError", "RemoteProtocolError")
    if isinstance(error, LocalEntryNotFoundError | ConnectionError | TimeoutError) or type(error).__name__ in network:
        return f"{what}: {constants.ENDPOINT} cannot be reached ({text}); connect to the network, or {elsewhere}"
    if status is not None:
        return f"{what}: {constants.ENDPOINT} answers HTTP {status}; try again later, or {elsewhere}"
    return f"{what} at {revision} cannot be read ({type(error).__name__}: {text})"
