"""Read YAML written by people: safely, and with an error where YAML would silently mean something else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from lofit.errors import LofitError

MAX_NODES = 100_000
"""Largest number of values in a document, with its aliases expanded."""
MAX_DEPTH = 50
"""Largest number of levels of nested mappings and lists."""
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
"""NUL, which no file name can hold, and lone surrogates, which UTF-8 cannot encode."""


def read_yaml(path: Path, error: type[LofitError]) -> Any:
    """Read one YAML document of plain data (no Python objects).

    Args:
        path: the file.
        error: class of the error to raise.

    Raises:
        LofitError: of class ``error``: the file cannot be read, is not UTF-8, or is not YAML; a mapping has a duplicate
            key; an alias contains itself; the document is too large or too deeply nested; an integer does not fit into
            64 bits; or a string contains NUL or a lone surrogate.
    """
    try:
        return _load(path.read_text(encoding="utf-8-sig"))
    except OSError as fault:
        raise error(f"{path}: cannot be read ({fault.strerror}); give an existing file") from None
    except UnicodeDecodeError as fault:
        raise error(f"{path}: not UTF-8 text (byte {fault.start}); save it as UTF-8") from None
    except RecursionError:
        raise error(f"{path}: not valid YAML (nested too deeply); fix the file") from None
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(fault, "problem", None) or getattr(fault, "reason", None) or "cannot be read"
        raise error(f"{path}: not valid YAML{where} ({problem}); fix the file") from None


def _load(text: str) -> Any:
    loader = _StrictLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _check(root, {})
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _check(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Check a node for what PyYAML accepts silently.

    Args:
        node: the node to check.
        known: results for the nodes checked so far, by ``id``; None for a node that is being checked.

    Returns:
        Number of values in the node, with aliases expanded, and number of levels.
    """
    found = known.get(id(node), (0, 0))
    if found is None:
        raise _refusal("an alias contains itself", node)
    if found[0]:
        return found
    known[id(node)] = None
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            if (key.tag, str(key.value)) in keys:
                raise _refusal(f"the key '{key.value}' is given twice", key)
            keys.add((key.tag, str(key.value)))
            parts += [key, value]
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif _UNWRITABLE.search(node.value):
        raise _refusal("text with NUL or half a character", node)
    sizes, depths = zip((0, 0), *(_check(part, known) for part in parts), strict=True)
    size, depth = known[id(node)] = (1 + sum(sizes), 1 + max(depths))
    if size > MAX_NODES:
        raise _refusal(f"more than {MAX_NODES} values", node)
    if depth > MAX_DEPTH:
        raise _refusal(f"more than {MAX_DEPTH} levels", node)
    return size, depth


def _refusal(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, but values that only look like numbers raise a YAML error instead of one of Python's."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Build a value; one that only looks like a number or a date is an error of the document."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            raise _refusal(f"not a value of type {kind}; quote it if it is text", node) from None
        if isinstance(value, int) and value.bit_length() > 63:
            raise _refusal("a number of more than 64 bits", node)
        return value
