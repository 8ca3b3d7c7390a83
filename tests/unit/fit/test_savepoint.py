"""A killed fit goes on from its last save point, and ends bit for bit where it would have ended."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from lofit.methods import load_method
from lofit.models.session import Session
from lofit.spec.hyperparameters import ComputeParams
from lofit.training.savepoint import SavePoint
from lofit.training.trainer import Fitted
from tests.sessions import PAIRS, ROWS, Killed, fit_context, interrupt, session

EPOCHS = 3


def fit(method: str, opened: Session, lr: float = 0.02) -> Fitted:
    found = load_method(method)
    assert found.fit is not None
    dropout = {"dropout": 0.3} if method == "lora" else {}
    bench = fit_context(opened)
    return found.fit(bench, found.Params(lr=lr, epochs=EPOCHS, batch_size=4, weight_decay=0.01, **dropout))


def opened(save_to: Path | None, objective: str = "sft", **changes: Any) -> Session:
    rows = {"train": PAIRS[:5], "validation": PAIRS[5:]} if objective == "dpo" else {}
    fields = {"objective": objective, "compute": ComputeParams(save_minutes=0), "save_to": save_to}
    return session(**(fields | rows | changes))


def values(fitted: Fitted) -> list[torch.Tensor]:
    return [value.clone() for _, value in sorted(fitted.model.state_dict().items())]


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize(
    ("method", "objective"),
    [("lora", "sft"), ("red", "sft"), ("jola", "sft"), ("loreft", "sft"), ("full", "sft"), ("lora", "dpo")],
)
def test_an_interrupted_fit_equals_an_undisturbed_one(
    method: str, objective: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fit(method, opened(None, objective))
    with monkeypatch.context() as patched:
        interrupt(patched, after)
        with pytest.raises(Killed):
            fit(method, opened(tmp_path / "s", objective))
    steps, step = [], torch.optim.AdamW.step

    def counted(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    resumed = fit(method, opened(tmp_path / "s", objective))
    assert len(steps) == plain.record["steps"] - after, "it went on, it did not start again"
    assert all(torch.equal(a, b) for a, b in zip(values(plain), values(resumed), strict=True))
    for key in ("train_loss", "validation_loss", "steps", "trained_params"):
        assert resumed.record[key] == plain.record[key]


def test_another_start_is_not_mistaken_for_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        interrupt(patched, 4)
        with pytest.raises(Killed):
            fit("lora", opened(tmp_path / "s"))
    rows = copy.deepcopy(ROWS[:8])
    rows[3]["target"] = " 7"
    plain = fit("lora", opened(None, train=rows))
    resumed = fit("lora", opened(tmp_path / "s", train=rows))
    assert all(torch.equal(a, b) for a, b in zip(values(plain), values(resumed), strict=True))
    assert resumed.record["train_loss"] == plain.record["train_loss"]


def test_another_setting_is_not_mistaken_for_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a search chooses another one, and fits it in the same folder."""
    with monkeypatch.context() as patched:
        interrupt(patched, 4)
        with pytest.raises(Killed):
            fit("lora", opened(tmp_path / "s"))
    plain = fit("lora", opened(None), lr=0.01)
    resumed = fit("lora", opened(tmp_path / "s"), lr=0.01)
    assert all(torch.equal(a, b) for a, b in zip(values(plain), values(resumed), strict=True))


@pytest.mark.parametrize("damage", [b"", b"\x08\0\0\0\0\0\0\0{}", b"rubbish" * 9])
def test_a_damaged_save_point_is_not_used(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(damage)
    plain, resumed = fit("lora", opened(None)), fit("lora", opened(tmp_path / "s"))
    assert all(torch.equal(a, b) for a, b in zip(values(plain), values(resumed), strict=True))


def test_save_points_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit("lora", opened(tmp_path / "s", compute=ComputeParams(save_minutes=None)))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(SavePoint, "save", None)
    fit("lora", opened(tmp_path / "s", compute=ComputeParams(save_minutes=10)))  # ends sooner
    assert list(tmp_path.iterdir()) == []
