"""The JSON schema of a configuration, for the workflow and for editors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from lofit import methods, tasks
from lofit.config.form import Config


def json_schema() -> dict[str, Any]:
    """JSON schema of the configuration, with the options of every task and the hyperparameters of every method."""
    schema = Config.model_json_schema()
    form = schema["properties"]
    form["tasks"] = _named(
        schema,
        form["tasks"],
        "TaskConfig",
        "options",
        {name: tasks.load_task(name).Options for name in tasks.task_names()},
    )
    form["methods"] = _named(
        schema,
        form["methods"],
        "MethodConfig",
        "params",
        {name: methods.load_method(name).Params for name in methods.method_names()},
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _named(
    schema: dict[str, Any], form: dict[str, Any], part: str, key: str, forms: dict[str, type[BaseModel]]
) -> dict[str, Any]:
    """Add to a free mapping one entry per known name, whose ``key`` has that name's own form.

    Other names stay allowed: a method or task that is added later needs no new schema, and an unknown name has been
    refused by then.
    """
    entries = {}
    for name, options in forms.items():
        definition = options.model_json_schema()
        definition.pop("required", None)  # the recipe fills them
        schema["$defs"].update(definition.pop("$defs", {}))
        body = {**schema["$defs"][part], "properties": {**schema["$defs"][part]["properties"], key: definition}}
        entries[name] = {"anyOf": [body, {"type": "null"}]}
    return {
        **form,
        "properties": entries,
    }
