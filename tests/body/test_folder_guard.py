import json
import os
import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from conflayers.body.folder_guard import check_folder
from conflayers.errors import LoadError

LLAMA = {"model_type": "llama", "num_hidden_layers": 2}


def write_config(folder: Path, **more: object) -> None:
    (folder / "config.json").write_text(json.dumps(LLAMA | more))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    write_config(folder)
    save_file({name: torch.zeros(2, 2) for name in "abc"}, folder / "model.safetensors")
    return folder


@pytest.fixture
def sharded(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    save_file({"a": torch.zeros(2, 2)}, folder / "one.safetensors")
    save_file({"b": torch.zeros(2, 2), "c": torch.zeros(3)}, folder / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_a_good_folder_passes(folder: Path) -> None:
    summary = check_folder(folder)
    assert summary.nbytes == (folder / "model.safetensors").stat().st_size
    assert summary.weights == 12
    assert summary.files == dict.fromkeys("abc", folder / "model.safetensors")
    assert not summary.has_tokenizer
    (folder / "tokenizer.json").write_text("{}")
    (folder / "notes").mkdir()
    assert check_folder(folder).has_tokenizer


def test_shards_are_followed(sharded: Path) -> None:
    summary = check_folder(sharded)
    assert summary.weights == 11
    assert {name: file.name for name, file in summary.files.items()} == {
        "a": "one.safetensors",
        "b": "two.safetensors",
        "c": "two.safetensors",
    }


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "two.safetensors").unlink()
    with pytest.raises(LoadError, match=r"index\.json: names the shard two\.safetensors, which is missing"):
        check_folder(sharded)


def test_a_tensor_in_two_shards_is_named(sharded: Path) -> None:
    save_file({"b": torch.zeros(2, 2)}, sharded / "one.safetensors")
    with pytest.raises(LoadError, match=r"two\.safetensors: tensor 'b' is also in one\.safetensors"):
        check_folder(sharded)


def test_a_shard_outside_the_folder_is_refused(sharded: Path, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 2)}, tmp_path / "elsewhere.safetensors")
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(LoadError, match="leads out of the model's folder"):
        check_folder(sharded)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}', "nonsense"])
def test_a_broken_index_is_named(sharded: Path, index: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(index)
    with pytest.raises(LoadError, match=r"model\.safetensors\.index\.json"):
        check_folder(sharded)


def test_a_damaged_file_is_named(folder: Path) -> None:
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw[:-4])
    with pytest.raises(LoadError, match=r"model\.safetensors: damaged .* tensor 'c'"):
        check_folder(folder)


def test_config_names_its_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    write_config(folder, transformers_weights="other.safetensors")
    assert set(check_folder(folder).files) == set("abc")
    write_config(folder, transformers_weights="other.bin")
    with pytest.raises(LoadError, match=r"no model\.safetensors"):
        check_folder(folder)


@pytest.mark.parametrize(
    ("present", "reason"),
    [
        ("pytorch_model.bin", "pickle files only"),
        ("q4.gguf", "pass its path, as .*q4.gguf"),
        ("readme", "has no model"),
    ],
)
def test_other_weights_are_refused(folder: Path, present: str, reason: str) -> None:
    (folder / "model.safetensors").rename(folder / present)
    with pytest.raises(LoadError, match=reason):
        check_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "anything"])
def test_only_regular_files_are_read(folder: Path, name: str, tmp_path: Path) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    started = time.monotonic()
    os.mkfifo(path)
    with pytest.raises(LoadError, match=f"{name}: not a regular file"):
        check_folder(folder)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(LoadError, match=f"{name}: leads out of the model's folder, to /dev/zero"):
        check_folder(folder)
    path.unlink()
    path.symlink_to(tmp_path / "nothing")
    with pytest.raises(LoadError, match=f"{name}: a link to nothing"):
        check_folder(folder)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(LoadError, match=f"{name}: a link to nothing"):
        check_folder(folder)
    assert time.monotonic() - started < 2


def test_a_socket_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("tokenizer.json")
        with pytest.raises(LoadError, match="not a regular file"):
            check_folder(folder)


def test_links_may_stay_inside_but_not_leave(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    check_folder(folder)
    secret = tmp_path / "secret.jinja"
    secret.write_text("x")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "a.jinja").symlink_to(secret)
    with pytest.raises(LoadError, match=r"a\.jinja: leads out of the model's folder"):
        check_folder(folder)


def test_a_snapshot_may_link_to_its_own_blobs_only(folder: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "models--org--name" / "blobs"
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123"
    for made in (blobs, snapshot, tmp_path / "models--org--other" / "blobs"):
        made.mkdir(parents=True)
    for file in folder.iterdir():
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    check_folder(snapshot)
    foreign = tmp_path / "models--org--other" / "blobs" / "x"
    foreign.write_text("{}")
    (snapshot / "tokenizer.json").symlink_to(foreign)
    with pytest.raises(LoadError, match="leads out"):
        check_folder(snapshot)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"a": ' + "9" * 5_000 + "}", b"\xff\xfe"])
def test_a_broken_config_is_named(folder: Path, text: str | bytes) -> None:
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LoadError, match=r"config\.json: not"):
        check_folder(folder)


def test_a_missing_config_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(LoadError, match=r"config\.json: missing"):
        check_folder(folder)


def test_a_huge_config_is_not_read(folder: Path) -> None:
    with (folder / "config.json").open("wb") as file:
        file.truncate(100_000_001)
    with pytest.raises(LoadError, match="larger than"):
        check_folder(folder)


def test_code_of_the_folder_is_named_with_its_flag(folder: Path) -> None:
    write_config(folder, model_type="mine", auto_map={"AutoConfig": "mine.Conf", "AutoModelForCausalLM": "mine.Model"})
    with pytest.raises(LoadError, match=r"mine\.Conf, mine\.Model.*trust_remote_code=True \(--trust-remote-code\)"):
        check_folder(folder)
    write_config(folder, model_type="mine", auto_map={"AutoConfig": "mine.Conf"}, trust_remote_code=True)
    with pytest.raises(LoadError, match="needs its own code"):
        check_folder(folder)
    check_folder(folder, trust_remote_code=True)


@pytest.mark.parametrize("kind", ["mine", None, 3, ["llama"]])
def test_an_unknown_model_type_is_named(folder: Path, kind: object) -> None:
    write_config(folder, model_type=kind)
    with pytest.raises(LoadError, match=r"config\.json: transformers does not know model_type"):
        check_folder(folder)


def test_code_that_is_not_needed_is_no_reason_to_refuse(folder: Path) -> None:
    write_config(folder, auto_map={"AutoModelForCausalLM": "mine.Model"})
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["tok.Slow", None]}}))
    assert check_folder(folder).tokenizer_code == ("tok.Slow",)
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": ["tok.Slow", "tok.Fast"]}))
    assert check_folder(folder).tokenizer_code == ("tok.Slow", "tok.Fast")


def test_other_ways_to_run_or_read_something_are_refused(folder: Path) -> None:
    for more in ({"attn_implementation": "org/kernel"}, {"text_config": {"attn_implementation": "org/kernel"}}):
        write_config(folder, **more)
        with pytest.raises(LoadError, match="downloaded kernel 'org/kernel'"):
            check_folder(folder)
        check_folder(folder, trust_remote_code=True)
    write_config(folder, attn_implementation="sdpa")
    check_folder(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"init_inputs": ["/dev/zero"]}))
    with pytest.raises(LoadError, match="init_inputs"):
        check_folder(folder)


def test_an_adapter_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(LoadError, match="merge the adapter"):
        check_folder(folder)


def test_a_large_template_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("x" * 1_000_001)
    with pytest.raises(LoadError, match="chat template larger"):
        check_folder(folder)


@pytest.mark.parametrize(
    "more", [{"num_hidden_layers": 10**9}, {"text_config": {"n_layer": 10**9}}, {"num_local_experts": 10**9}]
)
def test_counts_out_of_proportion_are_refused(folder: Path, more: dict[str, object]) -> None:
    write_config(folder, **more)
    with pytest.raises(LoadError, match="= 1000000000; with 3 tensors, that cannot be"):
        check_folder(folder)


def test_an_unreadable_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="cannot be read"):
        check_folder(tmp_path / "nothing")
