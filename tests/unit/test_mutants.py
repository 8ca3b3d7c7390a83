"""The mutants of tests/mutants.py fit the code that there is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutants import MUTANTS, Mutant, mutate

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_one_place_and_compiles(mutant: Mutant) -> None:
    text = (REPOSITORY / mutant.file).read_text(encoding="utf-8")
    mutated = mutate(text, mutant)
    assert ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(text))
    assert (REPOSITORY / mutant.first).exists()


def test_a_mutant_that_the_code_left_behind_is_one_line() -> None:
    for text in ("", 2 * MUTANTS[0].old):
        with pytest.raises(SystemExit, match=MUTANTS[0].name) as caught:
            mutate(text, MUTANTS[0])
        assert "\n" not in str(caught.value)


def test_names_tell_mutants_apart() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
