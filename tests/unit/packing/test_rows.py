"""Tries hold every text once, and rows hold every trie."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lofit.models.encoding import Example
from lofit.packing.rows import fill, packed, unpacked
from lofit.packing.trie import Role, Trie

CPU = torch.device("cpu")
TEXT = st.builds(
    lambda prompt, answer: Example((*prompt, *answer), len(prompt)),
    st.lists(st.integers(0, 2), min_size=1, max_size=6),
    st.lists(st.integers(0, 2), min_size=1, max_size=4),
)


@given(st.lists(TEXT, min_size=1, max_size=6))
def test_a_trie_holds_every_text_once_and_in_order(texts: list[Example]) -> None:
    trie = Trie(texts)
    for number, text in enumerate(texts):
        path, labels, _ = trie.targets[trie.targets[:, 2] == number].T.tolist()
        assert labels == list(text.ids[text.answer_start :])
        last = path[-1]
        line = trie.ancestors[last].nonzero()[:, 0]
        line = line[trie.depths[line].argsort()]
        assert trie.tokens[line].tolist() == list(text.ids[:-1])
        assert trie.depths[line].tolist() == list(range(len(text.ids) - 1))
        roles = [Role.PROMPT] * (text.answer_start - 1) + [Role.LAST_OF_PROMPT] + [Role.ANSWER] * (text.n_answer - 1)
        assert trie.roles[line].tolist() == roles
        assert line[text.answer_start - 1 :].tolist() == path
    distinct = {
        (text.ids[: i + 1], text.answer_start if i >= text.answer_start - 1 else None)
        for text in texts
        for i in range(len(text.ids) - 1)
    }
    assert len(trie.tokens) == len(distinct)
    assert (trie.roles[: trie.n_prompt] == Role.PROMPT).all()
    assert (trie.roles[trie.n_prompt :] != Role.PROMPT).all()


@given(st.lists(st.lists(TEXT, min_size=1, max_size=3), min_size=1, max_size=6))
def test_packed_rows_hold_every_token_of_every_text(groups: list[list[Example]]) -> None:
    """Whatever shares a row, each answer token is predicted where its text, and nothing else, is attended to."""
    tries = [Trie(texts) for texts in groups]
    rows = packed([[tries[i] for i in row] for row in fill([len(trie) for trie in tries])], 0, CPU, torch.float32)
    texts = [text for row in fill([len(trie) for trie in tries]) for i in row for text in groups[i]]
    at = 0
    for number, text in enumerate(texts):
        for position in range(text.answer_start, len(text.ids)):
            row, column = int(rows.row[at]), int(rows.column[at]) + rows.input_ids.shape[1] - rows.width
            assert (int(rows.text[at]), int(rows.label[at])) == (number, text.ids[position])
            seen = (rows.attention_mask[row, 0, column] == 0).nonzero()[:, 0]
            seen = seen[rows.position_ids[row, seen].argsort()]
            assert rows.input_ids[row, seen].tolist() == list(text.ids[:position])
            assert rows.position_ids[row, seen].tolist() == list(range(position))
            assert rows.answer[row, column]
            at += 1
    assert at == len(rows.label)
    nodes = torch.cat([tries[i].tokens for row in fill([len(trie) for trie in tries]) for i in row])
    assert torch.equal(rows.input_ids[rows.cell_row, rows.cell_column], nodes)


@given(st.lists(TEXT, min_size=1, max_size=5))
def test_texts_apart_end_in_the_last_column(texts: list[Example]) -> None:
    rows = unpacked(texts, 9, CPU)
    for row, text in enumerate(texts):
        length = len(text.ids) - 1
        assert rows.input_ids[row].tolist() == [9] * (rows.input_ids.shape[1] - length) + list(text.ids[:-1])
        assert rows.attention_mask[row].sum() == rows.attention_mask[row, -length:].sum() == length
        assert rows.label[rows.text == row].tolist() == list(text.ids[text.answer_start :])
        columns = rows.column[rows.text == row] + rows.input_ids.shape[1] - rows.width
        assert rows.input_ids[row, columns].tolist() == list(text.ids[text.answer_start - 1 : -1])


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_items_fill_rows_evenly(sizes: list[int]) -> None:
    rows = fill(sizes)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    loads = [sum(sizes[i] for i in row) for row in rows]
    assert loads == sorted(loads, reverse=True)
    # The last item given to the fullest row found it emptiest.
    assert loads[0] - loads[-1] <= max(sizes)
    assert len(rows) * loads[0] <= len(sizes) * max(sizes) * 1.06, "never worse than a row each, but for attention"


def test_rows_are_neither_padded_nor_long_without_need() -> None:
    assert fill([90]) == [[0]]
    assert sorted(map(sorted, fill([100, 60, 40]))) == [[0], [1, 2]]
    assert len(fill([36] * 8)) == 8, "equal ones need no company"
    assert len(fill([20, 50, 36, 30, 44, 25, 36, 40])) <= 4, "short ones of different length share rows"
    assert len(fill([2000] * 4)) == 4, "long ones do not"
