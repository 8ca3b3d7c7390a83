"""Configurations: values from the JSON schema and junk, put into good ones; then damage to the text."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from lofit.config import json_schema, load_config, parse_config
from lofit.errors import ConfigError
from lofit.experiments import builtin_names
from lofit.localizers import localizer_names
from lofit.methods import method_names
from lofit.plan.table import RunTable
from lofit.sources.catalog import load_catalog
from lofit.tasks import task_names
from tests.faults.kinds import Kind, UnclearError

LOCAL = {"source": {"kind": "local", "path": "checkpoint"}, "n_layers": 3, "n_heads": 4}
GOOD: list[dict[str, Any]] = [
    {
        "models": ["smollm2-135m"],
        "tasks": {"listops": {"options": {"n_train": 8}}},
        "methods": {"base": None, "lofit": {"heads": {"k": [0.1]}}},
    },
    {
        "models": ["tiny"],
        "model_sources": {"tiny": LOCAL},
        "tasks": {"siqa": None, "truthfulqa": {"folds": [0]}},
        "methods": {"base": None, "full": None, "lora": {"params": {"rank": 4}}, "iti": {"heads": {"k": [2, 3]}}},
        "seeds": [0, 1],
        "protocols": ["paper", "open"],
        "judges": {"truth": "tiny", "info": "tiny"},
        "retention": {"mmlu": {"options": {"n_test": 10}}, "wikitext": None},
        "suite": ["siqa"],
        "training": {"micro_batch": 4},
        "device": "cpu",
    },
    {
        "models": ["smollm2-135m"],
        "tasks": {"boolq": None, "siqa": None},
        "methods": {"base": None, "lofit": None, "lora": {"search": {"params": {"lr": [0.1, 0.01]}}}},
        "lr_grid": [1, 3],
        "transfer": {"method": "lofit", "k": 5},
        "experiments": {
            "head_selection": None,
            "mine": {"kind": "curve", "k": [1, 0.5], "arms": {"a": {"method": "lofit"}}},
        },
        "data_mirror": "mirror",
        "results": "out",
        "resources": "in",
    },
]
NAMES = sorted({*load_catalog(), *task_names(), *method_names(), *localizer_names(), *builtin_names(), "tiny"})
NUMBERS = [0, -1, 1, 1.5, -0.0, 1e308, 5e-324, 10**30, 10**400, -(10**400), 2**31, 2**63, 2**64]
NUMBERS += [float("nan"), float("inf"), -float("inf")]
TEXTS = [
    "",
    " ",
    "../..",
    "/etc/passwd",
    "/",
    "..",
    "~",
    "a/b",
    "a\\b",
    "a\nb",
    "\x1b[31m",
    "\u202e",
    "x" * 5000,
    "null",
]
TEXTS += ["1", "yes", "0x1", "NaN", "${HOME}", "{model}", "%s", "é", "e\u0301", "\U0001f600", "CON", "-rf", "*", "a:b"]
TEXTS += ["a\0b", "\ud800", "hub", "lora.params", "lofit-tuned", "{0.__class__}"]

scalars = st.one_of(
    st.sampled_from(NUMBERS), st.sampled_from(TEXTS), st.sampled_from(NAMES), st.booleans(), st.none(), st.integers(),
    st.floats(), st.text(max_size=8),
)  # fmt: skip
keys = st.one_of(st.sampled_from(NAMES), st.sampled_from(TEXTS), st.text(max_size=5), st.integers(), st.none())
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
)


@cache
def schema() -> dict[str, Any]:
    """The schema of a configuration."""
    return json_schema()


def fitting(form: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Values that a part of the schema admits, or nearly: bounds are left to chance, names are often known ones."""
    if "$ref" in form:
        return fitting(schema()["$defs"][form["$ref"].rpartition("/")[2]], depth)
    for several in ("anyOf", "oneOf"):
        if several in form:
            return st.one_of([fitting(one, depth) for one in form[several]])
    if "enum" in form or "const" in form:
        return st.sampled_from(form.get("enum") or [form["const"]])
    kind = form.get("type")
    if kind == "object":
        return _fitting_object(form, depth)
    if kind == "array":
        least = form.get("minItems", 0)
        return st.lists(fitting(form.get("items", {}), depth + 1), min_size=least, max_size=least + 2)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        "integer": st.integers(-1, 300) | st.integers(),
        "number": st.floats(0, 2) | st.sampled_from(NUMBERS),
        "boolean": st.booleans(),
        "null": st.none(),
        "string": st.sampled_from(NAMES) | st.sampled_from(TEXTS) | st.text(max_size=5),
    }
    return simple.get(kind, scalars)


@st.composite
def _fitting_object(draw: Any, form: dict[str, Any], depth: int) -> dict[Any, Any]:
    properties = form.get("properties", {})
    required = list(form.get("required", []))
    optional = [name for name in properties if name not in required]
    chosen = draw(st.lists(st.sampled_from(optional), unique=True, max_size=2)) if optional and depth < 4 else []
    made = {name: draw(fitting(properties[name], depth + 1)) for name in [*required, *chosen]}
    if form.get("additionalProperties") and depth < 4 and draw(st.booleans()):
        inner = form["additionalProperties"]
        made |= draw(
            st.dictionaries(
                st.sampled_from(NAMES) | st.text(min_size=1, max_size=3),
                fitting(inner if isinstance(inner, dict) else {}, depth + 1),
                max_size=2,
            )
        )
    return made


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything below a value."""
    found = []
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((*path, key))
        if isinstance(inner, dict | list):
            found += _places(inner, (*path, key))
    return found


@st.composite
def values(draw: Any) -> Any:
    """A good configuration with up to three changes."""
    config = copy.deepcopy(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(0, 3))):
        if draw(st.booleans()):
            name = draw(st.sampled_from(sorted(schema()["properties"])))
            config[name] = draw(fitting(schema()["properties"][name]) | fitting(schema()["properties"][name]) | junk)
            continue
        places = _places(config)
        if not places:
            return draw(junk)
        *parents, last = draw(st.sampled_from(places))
        inner = config
        for key in parents:
            inner = inner[key]
        match draw(st.sampled_from(["delete", "replace", "replace", "rename", "nest", "repeat"])):
            case "delete":
                del inner[last]
            case "replace":
                inner[last] = draw(junk)
            case "rename" if isinstance(inner, dict):
                inner[draw(keys)] = inner.pop(last)
            case "nest":
                for _ in range(draw(st.sampled_from([1, 30, 60, 300]))):
                    inner[last] = [inner[last]] if draw(st.booleans()) else {"a": inner[last]}
            case "repeat" if isinstance(inner[last], list):
                inner[last] = inner[last] * draw(st.sampled_from([2, 50]))
    return config


def _as_text(value: Any) -> str:
    """YAML where it can be written, else JSON, which is YAML too."""
    try:
        return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
    except (yaml.YAMLError, RecursionError, UnicodeError, ValueError):
        try:
            return json.dumps(value, skipkeys=True)
        except (RecursionError, ValueError):
            return "[" * 2000


BOMB = "\n".join(f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]" if i else "a0: &a0 [x, x]" for i in range(12))
ADDED = [
    BOMB, "seeds: &s [*s]", "seeds: &s [1]\nsuite: *s", "results: !!python/object/apply:os.system ['touch owned']",
    "results: !!python/name:os.system", "results: !!binary aGk=", "results: ! x", "results: 2001-13-45",
    "results: 2001-12-14", "seeds: [0x_]", "threads: 1:30", "threads: !!int x", "progress: !!bool q", "\tresults: x",
    "results: \"a\\0b\"", "results: \"\\ud800\"", "? [a]\n: 1", "? {a: b}\n: 1", "<<: {seeds: [1]}", "<<: 3",
    "---\nmodels: [x]", "...", "%YAML 9.9\n---", "results: |\n  a\n  b", "results: >-\n  a", "results: *nothing",
    "seeds: !!set {1, 2}", "seeds: !!omap [a: 1]", "models: []\nmodels: [x]", "results: a\nresults: b", "results: [",
    "results: 'a", "results: @a", "results: `a`", "tasks: {siqa: , siqa: }", "results: " + "x" * 100_000,
    "seeds: [" + "9" * 5000 + "]", "results: \x01", "#" * 1000, "models: " + "[" * 3000,
]  # fmt: skip


@st.composite
def files(draw: Any) -> bytes:
    """A configuration file as bytes."""
    text = _as_text(draw(values()))
    lines = text.split("\n")
    damage = draw(st.sampled_from(["none"] * 8 + ["add", "add", "double", "cut", "byte", "tab", "encode"]))
    at = draw(st.integers(0, max(0, len(lines) - 1)))
    if damage == "add":
        lines.insert(draw(st.sampled_from([0, at, len(lines)])), draw(st.sampled_from(ADDED)))
    elif damage == "double":
        lines.insert(at, lines[at])
    elif damage == "tab":
        lines[at] = "\t" + lines[at]
    body = "\n".join(lines).encode("utf-8", "surrogatepass")
    if damage == "cut":
        return body[: draw(st.integers(0, len(body)))]
    if damage == "byte":
        place = draw(st.integers(0, len(body)))
        return body[:place] + draw(st.binary(min_size=1, max_size=3)) + body[place:]
    if damage == "encode":
        return draw(st.sampled_from([b"\xef\xbb\xbf" + body, "\n".join(lines).encode("utf-16", "replace"), b""]))
    return body


def use(case: bytes, folder: Path) -> None:
    """Load the configuration and expand it; one that is taken must stay the same through its snapshot."""
    file = folder / "config.yaml"
    file.write_bytes(case)
    try:
        config = load_config(file)
    except ConfigError as error:
        if not str(error).startswith(f"{file}: "):
            raise UnclearError(f"does not name the file: {error}") from error
        if left := [path.name for path in folder.iterdir() if path != file]:
            raise UnclearError(f"left behind: {left}") from error
        raise
    table = RunTable(config)
    ids = _ids(table)
    for identifier in ids:
        parts = identifier.split("/")
        if any(part in ("", ".", "..") or len(part.encode()) > 200 for part in parts):
            raise UnclearError(f"leaves its folder, or is too long for one: {identifier}")
    snapshot = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    if _ids(RunTable(parse_config(snapshot))) != ids:
        raise UnclearError("the snapshot of the configuration has other nodes")


def _ids(table: RunTable) -> list[str]:
    return [*table.data, *table.activations, *table.localize, *table.fits, *table.evaluations]


KIND = Kind("configurations", files(), use)
