"""What is wrong with a configuration, in one line."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from lofit import registry


def one_line(error: ValidationError, form: type[BaseModel], prefix: str = "") -> str:
    """The first problem pydantic found, as ``key: problem; remedy``."""
    first = error.errors(include_url=False)[0]
    places = zip(("", *first["loc"]), first["loc"], strict=False)
    location = [str(part) for before, part in places if before != "source" or part not in ("hub", "local", "pypi_gguf")]
    if len(location) > 1 and location[-1] in ("int", "float") and first["type"] != "extra_forbidden":
        location.pop()  # which of the two a number could not be
    key = ".".join([prefix.rstrip("."), *location] if prefix else location)
    if first["type"] == "extra_forbidden":
        return f"{key}: {registry.unknown('key', location[-1], _form_at(form, location[:-1]).model_fields)}"
    if first["type"] == "missing":
        return f"{key}: this key is required; add it"
    if first["type"] == "too_short":
        return f"{key}: empty; give at least {first['ctx']['min_length']} entry"
    text = first["msg"].removeprefix("Value error, ")
    message = text[0].lower() + text[1:]
    return f"{key}: {message}; found {_SHORT.repr(first['input'])}"


_SHORT = reprlib.Repr()
"""For values in messages: a wrong one may be huge."""
_SHORT.maxstring = _SHORT.maxother = 80


def _form_at(form: type[BaseModel], location: list[str]) -> type[BaseModel]:
    """The model of the part of a configuration at ``location``; names in mappings and places in lists are passed."""
    for part in location:
        if part in form.model_fields:
            form = next(_forms_in(form.model_fields[part].annotation), form)
    return form


def _forms_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models named anywhere in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _forms_in(argument)


def repeated(values: Sequence[Any]) -> Any:
    """The first value that stands twice; None if none does."""
    return next((value for i, value in enumerate(values) if value in values[:i]), None)
