"""One-line messages for errors in a configuration."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from lofit import registry


def all_lines(error: ValidationError, form: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the problems that pydantic found, one for each key, as ``key: problem; remedy``; unknown keys first."""
    found = sorted(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    lines: dict[str, str] = {}
    for each in found:
        key, line = _line(each, form, prefix)
        lines.setdefault(key, line)  # of a union, pydantic tells every member
    return list(lines.values())


def _line(found: Mapping[str, Any], form: type[BaseModel], prefix: str) -> tuple[str, str]:
    """Return the key of a problem, and the problem in one line."""
    places = zip(("", *found["loc"]), found["loc"], strict=False)
    location = [str(part) for before, part in places if before != "source" or part not in ("hub", "local", "pypi_gguf")]
    if len(location) > 1 and location[-1] in ("int", "float") and found["type"] != "extra_forbidden":
        location.pop()  # pydantic appends the member of the union int | float, which is no key
    key = ".".join([prefix.rstrip("."), *location] if prefix else location)
    if found["type"] == "extra_forbidden":
        return key, f"{key}: {registry.unknown('key', location[-1], _keys(_form_at(form, location[:-1])))}"
    if found["type"] == "missing":
        return key, f"{key}: this key is required; add it"
    if found["type"] == "too_short":
        return key, f"{key}: empty; give at least {found['ctx']['min_length']} entry"
    text = found["msg"].removeprefix("Value error, ")
    message = text[0].lower() + text[1:]
    return key, f"{key}: {message}; found {_SHORT.repr(found['input'])}"


_SHORT = reprlib.Repr()
"""Shortens values in messages, since a wrong value may be huge."""
_SHORT.maxstring = _SHORT.maxother = 80


def _form_at(form: type[BaseModel], location: list[str]) -> type[BaseModel]:
    """Return the pydantic model at ``location`` in a configuration; mapping keys and list indices are skipped."""
    for part in location:
        if part in (fields := _keys(form)):
            form = next(_forms_in(fields[part].annotation), form)
    return form


def _keys(form: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a pydantic model by the keys that a user writes."""
    return {field.alias or name: field for name, field in form.model_fields.items()}


def _forms_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the pydantic models that occur anywhere in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _forms_in(argument)


def repeated(values: Sequence[Any]) -> Any:
    """Return the first value that occurs twice; None if there is none."""
    return next((value for i, value in enumerate(values) if value in values[:i]), None)
