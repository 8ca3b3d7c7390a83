"""YAML of people: what PyYAML lets pass silently, or turns into errors of Python, is one clear line here."""

from __future__ import annotations

from pathlib import Path

import pytest

from lofit.errors import ConfigError
from lofit.strict_yaml import read_yaml

BOMB = "\n".join(f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]" if i else "a0: &a0 [x]" for i in range(12))
REFUSED = {
    "a key twice": ("a: 1\nb: 2\na: 3", "line 3 (the key 'a' is given twice)"),
    "a key twice, once in quotes": ("a: {b: 1, 'b': 2}", "the key 'b' is given twice"),
    "an alias within itself": ("a: &a [*a]", "an alias contains itself"),
    "aliases of aliases": (BOMB, "more than 100000 values"),
    "nested": ("a: " + "[" * 60 + "]" * 60, "more than 50 levels"),
    "nested beyond the parser": ("[" * 5000, "nested too deeply"),
    "a Python object": ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
    "no date": ("a: 2001-13-45", "not a value of type timestamp; quote it"),
    "no number": ("a: !!int x", "not a value of type int"),
    "no truth value": ("a: !!bool x", "not a value of type bool"),
    "an endless number": ("a: " + "9" * 5000, "not a value of type int"),
    "a huge number": ("a: 9223372036854775808", "more than 64 bits"),
    "NUL": ('a: "b\\0"', "NUL"),
    "half a character": ('a: "\\ud800"', "half a character"),
    "a tab": ("\ta: 1", "line 1"),
    "two documents": ("a: 1\n---\nb: 2", "another document"),
    "a key that is a list": ("? [a]\n: 1", "unhashable key"),
    "another encoding": ("a: é".encode("latin-1"), "not UTF-8 text (byte 3)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, tmp_path: Path) -> None:
    text, message = REFUSED[name]
    file = tmp_path / "c.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        read_yaml(file, ConfigError)
    assert str(caught.value).startswith(f"{file}: not ")
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_anchors_and_merges_are_read(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, y: 3}\nd: [*b, *b]\n")
    expected = {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 2, "y": 3}, "d": [{"x": 2}, {"x": 2}]}
    assert read_yaml(file, ConfigError) == expected


def test_numbers_of_64_bits_are_read(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("a: 9223372036854775807\nb: -9223372036854775807\nc: true\n")
    assert read_yaml(file, ConfigError) == {"a": 2**63 - 1, "b": 1 - 2**63, "c": True}
