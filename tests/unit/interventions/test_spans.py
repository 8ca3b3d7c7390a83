"""Edits at some positions only: which positions, told by whom, and never silently none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch.testing import assert_close

from lofit.errors import EditError
from lofit.evaluation.lm import LocalizedLM, needs_spans
from lofit.interventions import LofitConfig, LoreftConfig
from lofit.interventions.loreft.layer import LoreftEdit, orthonormal, prompt_ends
from lofit.interventions.spans import current_spans, generation_spans, given_spans
from lofit.models.encoding import Example
from lofit.packing.forward import answer_logits
from lofit.packing.rows import unpacked
from tests.by_hand import PROJECTIONS
from tests.checkpoint import byte_tokenizer
from tests.tiny import FAMILIES, tiny_model

HEADS = [(0, 1), (2, 3)]
ROWS = [Example((5, 6, 7, 8, 9, 2), 4), Example((11, 12, 13, 2), 1), Example((21, 22, 23, 24, 25, 26, 27, 2), 6)]


def answer_only(family: str = "llama", **changes: Any) -> Any:
    config = LofitConfig(heads=HEADS, positions="answer", scale=False, offset=True, init_std=1.0)
    return get_peft_model(tiny_model(family, **changes), config)


def loreft(family: str = "llama", **fields: Any) -> Any:
    fields = {"rank": 2, "prefix": 1, "suffix": 2, **fields}
    model = get_peft_model(tiny_model(family), LoreftConfig(**fields))
    for name, parameter in model.named_parameters():
        if name.endswith(".w"):
            parameter.data.mul_(20)  # far from the mild initial edit
    return model


def test_masks_of_a_padded_batch() -> None:
    batch = unpacked(ROWS, 0, torch.device("cpu"))  # 7 columns; inputs are all tokens but the last
    with given_spans(batch.prompt, batch.answer):
        spans = current_spans(torch.zeros(3, 7, 1))
    assert spans.prompt.int().tolist() == [[0, 0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1, 0]]
    assert spans.answer.int().tolist() == [[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]]


def test_ends_of_the_prompt_are_at_most_its_halves() -> None:
    prompt = torch.tensor([[0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 0]]).bool()
    first, last = prompt_ends(prompt, 3, 1)
    assert first.int().tolist() == [[0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]]
    assert last.int().tolist() == [[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]
    assert not (first & last).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_edit_is_the_full_edit_at_the_answer_and_nothing_before(family: str) -> None:
    model = answer_only(family)
    path, width = PROJECTIONS[family]
    seen = {}
    for layer in (0, 2):
        module = model.get_base_model().get_submodule(path.format(layer)).base_layer
        module.register_forward_pre_hook(lambda m, a, layer=layer: seen.setdefault(layer, []).append(a[0].clone()))
    batch = unpacked(ROWS, 0, torch.device("cpu"))
    with torch.no_grad():
        answer_logits(model, batch)
        with model.disable_adapter():
            answer_logits(model, batch)
    edited, plain = seen[0]  # the first layer reads the same in both runs, so its change is the edit alone
    change = (edited - plain).unflatten(-1, (4, width))
    offset = next(p for n, p in model.named_parameters() if "lofit_offset" in n).detach()[0]
    expected = torch.zeros_like(change)
    for row, example in enumerate(ROWS):
        expected[row, -example.n_answer :, 1] = offset  # inputs that predict answer tokens
    assert_close(change, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [answer_only, loreft])
def test_an_edit_that_is_not_told_its_positions_refuses(make: Any) -> None:
    model = make()
    with pytest.raises(EditError, match="was not told where they are"):
        model(torch.tensor([[3, 4, 5]]))
    tokens = torch.tensor([[3, 4, 5]])
    with model.disable_adapter(), torch.no_grad():
        assert torch.equal(model(tokens).logits, tiny_model("llama")(tokens).logits)
    with (
        given_spans(torch.ones(1, 4), torch.tensor([1])),
        pytest.raises(EditError, match=r"shape \(1, 4\), not \(1, 3\)"),
    ):
        model(torch.tensor([[3, 4, 5]]))


@pytest.mark.parametrize("make", [answer_only, loreft])
def test_edits_at_some_positions_cannot_be_merged(make: Any) -> None:
    model = make()
    with pytest.raises(EditError, match="cannot be merged"):
        model.merge_adapter()
    with pytest.raises(EditError, match="cannot be merged"):
        model.merge_and_unload()


@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2"])
@pytest.mark.parametrize("make", [answer_only, loreft])
def test_generation_equals_scoring_of_what_was_generated(make: Any, family: str) -> None:
    """Greedy generation with a cache takes at each step the token that scoring the whole text puts first."""
    model = make(family)
    prompt = torch.tensor([[0, 0, 7, 8, 9], [3, 4, 5, 6, 10]])
    mask = (prompt != 0).long()
    with generation_spans(mask), torch.no_grad():
        out = model.generate(
            input_ids=prompt, attention_mask=mask, max_new_tokens=4, do_sample=False, eos_token_id=None
        )
    for row in range(2):
        start = int((prompt[row] == 0).sum())
        ids = tuple(out[row, start:].tolist())
        example = Example(ids, prompt.shape[1] - start)
        with torch.no_grad():
            logits = answer_logits(model, unpacked([example], 0, torch.device("cpu")))
        assert logits[0].argmax(-1).tolist() == list(ids[example.answer_start :])
    with torch.no_grad(), model.disable_adapter():
        plain = model.generate(
            input_ids=prompt, attention_mask=mask, max_new_tokens=4, do_sample=False, eos_token_id=None
        )
    assert not torch.equal(plain, out)


def test_scores_through_the_harness_see_the_edit_and_without_one_are_those_of_the_stock_model() -> None:
    from lm_eval.models.huggingface import HFLM

    tokenizer = byte_tokenizer()
    model = answer_only(vocab_size=259)
    assert needs_spans(model)
    assert not needs_spans(tiny_model("llama"))
    texts = [("Q: a A:", " b"), ("Q: a longer one A:", " no"), ("x", "yz")]
    requests = [(text, tokenizer(text[0])["input_ids"], tokenizer(text[1])["input_ids"]) for text in texts]
    with model.disable_adapter():
        stock = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)._loglikelihood_tokens(requests)
        ours = LocalizedLM(pretrained=model, tokenizer=tokenizer, batch_size=2)._loglikelihood_tokens(requests)
    assert [score for score, _ in ours] == pytest.approx([score for score, _ in stock], abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in stock]
    edited = LocalizedLM(pretrained=model, tokenizer=tokenizer, batch_size=2)._loglikelihood_tokens(requests)
    assert all(abs(a - b) > 1e-3 for (a, _), (b, _) in zip(ours, edited, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [True, False])
def test_loreft_is_its_formula_at_the_ends_of_the_prompt(family: str, share: bool) -> None:
    model = loreft(family, layers=[1], share=share)
    layers = PROJECTIONS[family][0].split(".{}")[0]
    batch = unpacked(ROWS, 0, torch.device("cpu"))
    parameters = dict(model.named_parameters())
    plain = tiny_model(family)
    first, last = prompt_ends(
        torch.tensor([[0, 0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1, 0]]).bool(), 1, 2
    )

    def hook(module: Any, arguments: Any, output: Any) -> Any:
        h = output if isinstance(output, torch.Tensor) else output[0]
        h = h.clone()
        for edit, mask in ((0, first), (0 if share else 1, last)):
            stem = f"base_model.model.{layers}.1.loreft_edits.default.{edit}"
            basis, w, b = (parameters[f"{stem}.{name}"].detach() for name in "rwb")
            rotation = basis.T  # the initial value is orthonormal already
            assert_close(rotation @ rotation.T, torch.eye(2), rtol=1e-5, atol=1e-5)
            for row, column in mask.nonzero().tolist():
                vector = h[row, column]
                h[row, column] = vector + rotation.T @ (w @ vector + b - rotation @ vector)
        return h if isinstance(output, torch.Tensor) else (h, *output[1:])

    with torch.no_grad():
        handle = plain.get_submodule(f"{layers}.1").register_forward_hook(hook)
        expected = answer_logits(plain, batch)
        handle.remove()
        found = answer_logits(model, batch)
        assert (expected - answer_logits(plain, batch)).abs().max() > 1e-3
    assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_loreft_is_saved_counted_and_switched_like_any_adapter(tmp_path: Any) -> None:
    from lofit.interventions import parameter_counts

    model = loreft(layers=[0, 2], share=False)
    size = 2 * 2 * (2 * 2 * 32 + 2)
    assert parameter_counts(model, foldable=False) == {"trained": size, "stored": size, "inference": size}
    batch = unpacked(ROWS, 0, torch.device("cpu"))
    with torch.no_grad():
        expected = answer_logits(model, batch)
        model.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(tiny_model("llama"), tmp_path).eval()
        assert torch.equal(answer_logits(loaded, batch), expected)
        loaded.add_adapter("two", LoreftConfig(rank=1, layers=[0, 1], init_seed=5))
        loaded.set_adapter("two")
        assert not torch.equal(answer_logits(loaded, batch), expected)
        loaded.set_adapter("default")
        assert torch.equal(answer_logits(loaded, batch), expected)
        with loaded.disable_adapter():
            frozen = tiny_model("llama").requires_grad_(False)  # torch rounds differently for weights that are not
            assert torch.equal(answer_logits(loaded, batch), answer_logits(frozen, batch))


def test_the_basis_of_loreft_moves_smoothly_and_its_formula_holds_after_training() -> None:
    matrix = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    for column in range(4):
        bases = []
        for value in (-1e-4, 1e-4):
            moved = matrix.clone()
            moved[column, column] = value
            bases.append(orthonormal(moved))
            assert_close(bases[-1].T @ bases[-1], torch.eye(4), rtol=1e-5, atol=1e-5)
        assert (bases[0] - bases[1]).abs().max() < 0.01
    assert torch.equal(orthonormal(matrix)[:, 0], orthonormal(2 * matrix)[:, 0])
    edit = LoreftEdit(32, 2, torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(edit.parameters(), lr=0.1)
    h = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    for _ in range(5):
        optimizer.zero_grad()
        (edit(h) - 1).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        first = edit.r[:, 0] / edit.r[:, 0].norm()
        second = edit.r[:, 1] - (edit.r[:, 1] @ first) * first
        rotation = torch.stack([first, second / second.norm()])  # Gram-Schmidt, by hand
        expected = h + (h @ edit.w.T + edit.b - h @ rotation.T) @ rotation
        assert_close(edit(h), expected, rtol=1e-4, atol=1e-4)


def test_loreft_is_unloaded_to_the_base_model() -> None:
    model = loreft(layers=[0, 2])
    plain = model.unload()
    assert list(plain.state_dict()) == list(tiny_model("llama").state_dict())
    with torch.no_grad():
        tokens = torch.tensor([[3, 4, 5]])
        assert_close(plain(tokens).logits, tiny_model("llama")(tokens).logits)
    again = get_peft_model(plain, LoreftConfig(rank=1))
    assert sum("loreft_" in name for name, _ in again.named_parameters()) == 9


@pytest.mark.parametrize("make", ["answer_only", "loreft"])
def test_the_harness_generates_with_the_edit_where_it_belongs(make: str, tmp_path: Any) -> None:
    from lofit.evaluation.harness import evaluate
    from lofit.files import write_jsonl
    from lofit.tasks import load_task

    rows = [{"id": str(i), "prompt": f"{i * 37}+1=", "answers": ["1"], "separator": " "} for i in range(5)]
    write_jsonl(tmp_path / "test.jsonl", rows)
    base, tokenizer = tiny_model("llama", vocab_size=259), byte_tokenizer()
    config = LoreftConfig(rank=2, prefix=1, suffix=2)
    if make == "answer_only":
        config = LofitConfig(heads=HEADS, positions="answer", scale=False, offset=True, init_std=1.0)
    model = get_peft_model(base, config).eval()
    _, samples = evaluate(model, tokenizer, load_task("listops"), tmp_path / "test.jsonl", batch_size=2)
    for row, sample in zip(rows, samples, strict=True):
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = list(prompt)
        for _ in range(4):
            batch = unpacked([Example((*ids, 2), len(prompt))], 0, torch.device("cpu"))  # any token may stand last
            with torch.no_grad():
                ids.append(int(answer_logits(model, batch)[0, -1].argmax()))
        expected = tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True).split("\n")[0]
        assert sample["resps"][0][0] == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, "rank must be 1 or more"),
        ({"prefix": 0, "suffix": 0}, "not both 0"),
        ({"layers": []}, "different layers"),
        ({"layers": [1, 1]}, "different layers"),
        ({"layers": [3]}, "layers names 3"),
    ],
)
def test_meaningless_loreft_configurations(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(EditError, match=message):
        loreft(**fields)


def test_modules_that_read_a_flat_batch_are_edited_at_the_same_positions() -> None:
    """OPT's feed-forward layers read [batch x length, features]."""
    config = LofitConfig(site="ffn", positions="answer", scale=False, offset=True, init_std=1.0)
    model: Any = get_peft_model(tiny_model("opt"), config)
    batch = unpacked(ROWS, 0, torch.device("cpu"))
    layer, seen = model.get_base_model().get_submodule("model.decoder.layers.0.fc2"), {}
    layer.register_forward_hook(lambda module, inputs, output: seen.update(after=output))
    layer.base_layer.register_forward_hook(lambda module, inputs, output: seen.update(before=output))
    with torch.no_grad():
        answer_logits(model, batch)
    moved = (seen["after"] - seen["before"]).abs().sum(-1) > 0
    assert torch.equal(moved, batch.answer.flatten())
