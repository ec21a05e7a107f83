import json
import os
import pickle
import shutil
import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from conflayers.body.load import load_checkpoint
from conflayers.errors import InputError, LoadError, UnsupportedModelError

TOKENS = ["<s>", "</s>", *sorted(ByteLevel.alphabet()), "he", "ll"]


def llama(**more: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        **more,
    )
    return LlamaForCausalLM(config)


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate(TOKENS)}
    backend = Tokenizer(BPE(vocabulary, [("h", "e"), ("l", "l")]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevelDecoder()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "tiny-llama"
    llama().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "tiny-llama"))


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def change_config(folder: Path, **more: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def write_gguf(path: Path, architecture: str = "llama") -> None:
    chance = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3] + [1] * (len(TOKENS) - 2))
    writer.add_token_merges(["h e", "l l"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {"token_embd": (len(TOKENS), 32), "output_norm": (32,), "output": (len(TOKENS), 32)}
    for block in ("blk.0", "blk.1"):
        shapes |= {f"{block}.attn_norm": (32,), f"{block}.ffn_norm": (32,), f"{block}.ffn_down": (32, 64)}
        shapes |= {f"{block}.attn_{name}": (16 if name in "kv" else 32, 32) for name in ("q", "k", "v", "output")}
        shapes |= {f"{block}.ffn_{name}": (64, 32) for name in ("gate", "up")}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", chance.standard_normal(shape).astype(np.float32) / 20)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "tiny.gguf"
    write_gguf(path)
    return path


def test_a_folder_loads_as_it_was_saved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    tokenizer().save_pretrained(folder)
    for source in (str(folder), "tiny-llama", "./tiny-llama/", "tiny-llama/../tiny-llama"):
        checkpoint = load_checkpoint(source)
        assert (checkpoint.name, checkpoint.source) == ("tiny-llama", str(folder.resolve()))
    assert not checkpoint.model.training
    assert checkpoint.model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert checkpoint.tokenizer is not None
    assert checkpoint.tokenizer.decode(checkpoint.tokenizer.encode("hello, world")) == "hello, world"
    for name, value in llama().state_dict().items():
        assert torch.equal(checkpoint.model.state_dict()[name].cpu(), value)


def test_a_folder_without_a_tokenizer_has_none(folder: Path) -> None:
    assert load_checkpoint(str(folder)).tokenizer is None


def test_shards_load(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    llama().save_pretrained(folder, max_shard_size="50KB")
    assert len([*folder.glob("*.safetensors")]) > 1
    loaded = load_checkpoint(str(folder), device="cpu").model
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in llama().state_dict().items())


def test_dtype_is_as_asked(folder: Path) -> None:
    assert load_checkpoint(str(folder), dtype="bfloat16").model.dtype == torch.bfloat16
    assert load_checkpoint(str(folder), dtype=torch.float64).model.dtype == torch.float64
    llama().to(torch.float16).save_pretrained(folder)
    assert load_checkpoint(str(folder)).model.dtype == torch.float16
    assert load_checkpoint(str(folder), dtype="float32").model.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["half", "int8", "", None, torch.int8, torch.float8_e4m3fn, 32])
def test_a_wrong_dtype_lists_the_choices(folder: Path, dtype: object) -> None:
    with pytest.raises(InputError, match="auto, float32, bfloat16, float16"):
        load_checkpoint(str(folder), dtype=dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["meta", "cuda:99", "nonsense", "", 5.5])
def test_a_wrong_device_is_named(folder: Path, device: object) -> None:
    with pytest.raises(InputError, match=f"device {device!r}"):
        load_checkpoint(str(folder), device=device)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["", "  ", None, 3, Path("x")])
def test_a_source_is_a_string(source: object) -> None:
    with pytest.raises(InputError, match="is not a name or a path"):
        load_checkpoint(source)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "source", ["./nope", "../nope", "/nope", "~/nope", "~nobody-here/nope", "nope.gguf", "org/nope.GGUF", "./a\0b"]
)
def test_a_path_that_is_not_there_is_named(source: str) -> None:
    with pytest.raises(LoadError, match="no such file or folder"):
        load_checkpoint(source)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("source", ["a/b/c", "a b", "-a/b", "a..b", "org/", "a\0b", "é" * 200, "org\\name", "x\nname"])
def test_what_can_be_no_model_is_named(source: str) -> None:
    with pytest.raises(LoadError, match="is not a model: no such file or folder, and not a hub id"):
        load_checkpoint(source)


@pytest.mark.usefixtures("offline")
def test_a_misspelt_alias_is_suggested() -> None:
    for source in ("smolm2", "SmolLM2", "smollm-2"):
        with pytest.raises(LoadError, match="Did you mean 'smollm2'"):
            load_checkpoint(source)


def test_revision_applies_to_the_hub_only(folder: Path) -> None:
    for source in (str(folder), "smollm2"):
        with pytest.raises(InputError, match="revision 'main' applies to hub ids only"):
            load_checkpoint(source, revision="main")


class Canary:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_pickled_weights_are_refused_unread(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    with pytest.raises(LoadError, match="pickle files only"):
        load_checkpoint(str(folder))
    assert not (tmp_path / "canary").exists()


def plant_code(folder: Path, canary: Path) -> None:
    """Code for the config, the model, the tokenizer and generate, each of which leaves a file behind when run."""
    touch = f"import pathlib; pathlib.Path({str(canary)!r}).with_suffix('.' + __name__.split('.')[-1]).touch()\n"
    (folder / "mine.py").write_text(
        touch
        + "from transformers import LlamaConfig, LlamaForCausalLM\n"
        + "class Conf(LlamaConfig):\n    model_type = 'mine'\n"
        + "class Model(LlamaForCausalLM):\n    config_class = Conf\n"
    )
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(touch + "def generate(model, **kwargs):\n    pass\n")
    auto_map = {"AutoConfig": "mine.Conf", "AutoModelForCausalLM": "mine.Model", "AutoTokenizer": [None, "mine.Tok"]}
    change_config(folder, auto_map=auto_map, trust_remote_code=True)
    generation = {"bos_token_id": 0, "trust_remote_code": True, "custom_generate": str(folder)}
    (folder / "generation_config.json").write_text(json.dumps(generation))


def test_code_runs_only_where_it_is_trusted(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = tmp_path / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    canary = tmp_path / "canary"
    plant_code(folder, canary)
    # transformers has a class for this type, and uses it.
    assert type(load_checkpoint(str(folder)).model) is LlamaForCausalLM
    tokenizer().save_pretrained(folder)
    change = json.loads((folder / "tokenizer_config.json").read_text()) | {
        "auto_map": {"AutoTokenizer": ["a.B", "a.C"]}
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(change))
    assert load_checkpoint(str(folder)).tokenizer is not None
    change_config(folder, model_type="mine")
    with pytest.raises(LoadError, match=r"mine\.Model.*trust_remote_code=True"):
        load_checkpoint(str(folder))
    assert not [*tmp_path.glob("canary*")]
    assert not modules.exists()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert type(load_checkpoint(str(folder), trust_remote_code=True).model).__name__ == "Model"
    assert {path.name for path in tmp_path.glob("canary*")} == {"canary.mine", "canary.generate"}


def test_a_known_config_with_a_model_of_its_own_code_is_refused(folder: Path) -> None:
    change_config(folder, model_type="vit", architectures=None, auto_map={"AutoModelForCausalLM": "mine.Model"})
    with pytest.raises(LoadError, match=r"needs its own code \(mine\.Model\)"):
        load_checkpoint(str(folder))


def test_a_tokenizer_of_its_own_code_is_refused(folder: Path) -> None:
    own = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Slow", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    with pytest.raises(LoadError, match=r"its tokenizer needs its own code \(mine\.Slow\).*--trust-remote-code"):
        load_checkpoint(str(folder))


SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
OTHERS = {
    "BertLMHeadModel is an encoder": lambda: BertLMHeadModel(BertConfig(**SMALL, is_decoder=True)),
    "DistilBertForMaskedLM is not a causal": lambda: DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=64, dim=16, n_layers=1, n_heads=2, hidden_dim=16)
    ),
    "T5ForConditionalGeneration is an encoder-decoder": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ),
}


@pytest.mark.parametrize("reason", OTHERS)
def test_what_is_no_decoder_is_named(reason: str, tmp_path: Path) -> None:
    OTHERS[reason]().save_pretrained(tmp_path)
    change_config(tmp_path, is_decoder=False)
    with pytest.raises(UnsupportedModelError, match=reason):
        load_checkpoint(str(tmp_path))


def change_tensors(folder: Path, **changed: torch.Tensor | None) -> None:
    tensors = {**load_file(folder / "model.safetensors"), **changed}
    kept = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_weights_that_do_not_fit_are_named(folder: Path) -> None:
    change_tensors(folder, **{"model.norm.weight": None, "lm_head.weight": None})
    with pytest.raises(LoadError, match=r"no tensor for lm_head\.weight and 1 more"):
        load_checkpoint(str(folder))
    change_tensors(folder, **{"model.norm.weight": torch.ones(31), "lm_head.weight": torch.ones(len(TOKENS), 32)})
    with pytest.raises(LoadError, match=r"safetensors: tensor 'model\.norm\.weight' has shape \[31\]; .* \[32\]"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("dtype", ["auto", "float16"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_poisoned_weights_are_named(folder: Path, poison: float, dtype: str) -> None:
    weight = torch.ones(64, 32)
    weight[3, 5] = poison
    change_tensors(folder, **{"model.layers.1.mlp.up_proj.weight": weight})
    with pytest.raises(
        LoadError, match=r"model\.safetensors: tensor 'model\.layers\.1\.mlp\.up_proj\.weight' holds NaN"
    ):
        load_checkpoint(str(folder), dtype=dtype)


def test_large_weights_are_not_taken_for_poison(folder: Path) -> None:
    change_tensors(folder, **{"model.embed_tokens.weight": torch.full((len(TOKENS), 32), 60_000.0)})
    load_checkpoint(str(folder), dtype="float16")


@pytest.mark.parametrize(
    "more",
    [
        {"hidden_size": 2**20},
        {"vocab_size": 2**31},
        {"intermediate_size": 2**40},
        {"num_attention_heads": 0},
        {"rms_norm_eps": "x"},
    ],
)
def test_a_config_that_does_not_fit_costs_nothing(folder: Path, more: dict[str, object]) -> None:
    change_config(folder, **more)
    started = time.monotonic()
    with pytest.raises(LoadError, match="tiny-llama"):
        load_checkpoint(str(folder))
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_explained(folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(LoadError, match=r"not enough memory on cpu for weights of 0\.0 GB.*try dtype='bfloat16'"):
        load_checkpoint(str(folder), device="cpu")


def test_a_model_without_memory_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_meta(*_: object, **__: object) -> tuple[object, dict[str, list[str]]]:
        return llama().to("meta"), {"missing_keys": [], "mismatched_keys": []}

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", on_meta)
    with pytest.raises(LoadError, match="meta device"):
        load_checkpoint(str(folder))


def test_a_broken_tokenizer_is_an_error(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(LoadError, match="transformers could not load it"):
        load_checkpoint(str(folder))
    tokenizer().save_pretrained(folder)
    change = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": "x" * 1_000_001}
    (folder / "tokenizer_config.json").write_text(json.dumps(change))
    with pytest.raises(LoadError, match="chat template longer"):
        load_checkpoint(str(folder))


def test_a_gguf_file_loads_as_plain_weights(written: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = load_checkpoint(str(written), device="cpu")
    assert capfd.readouterr().err == ""
    assert (checkpoint.name, checkpoint.source) == ("tiny.gguf", str(written.resolve()))
    assert checkpoint.model.dtype == torch.float32
    assert not checkpoint.model.training
    assert not hasattr(checkpoint.model.config, "quantization_config")
    assert type(checkpoint.model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    assert checkpoint.tokenizer is not None
    assert checkpoint.tokenizer.encode("hello") == [TOKENS.index(token) for token in ("he", "ll", "o")]
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(written).tensors}
    up = checkpoint.model.model.layers[1].mlp.up_proj.weight
    assert torch.equal(up, torch.tensor(np.array(stored["blk.1.ffn_up.weight"])))
    tokens = torch.tensor([[0, 5, 9]])
    assert checkpoint.model.generate(tokens, max_new_tokens=2, min_new_tokens=2, do_sample=False).shape == (1, 5)


def test_a_gguf_file_is_loaded_by_itself(written: Path, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    shutil.copy(written, tmp_path / "blobs" / "0123abcd")
    (tmp_path / "linked.gguf").symlink_to("blobs/0123abcd")
    # None of these is read.
    for name in ("config.json", "tokenizer_config.json", "adapter_config.json", "chat_template.jinja"):
        os.mkfifo(tmp_path / name)
    checkpoint = load_checkpoint(str(tmp_path / "linked.gguf"))
    path = str(tmp_path / "linked.gguf")
    assert (checkpoint.name, checkpoint.source, checkpoint.model.config.name_or_path) == ("linked.gguf", path, path)
    assert checkpoint.tokenizer is not None
    assert (checkpoint.tokenizer.name_or_path, checkpoint.tokenizer.chat_template) == (path, None)


def test_progress_is_shown_on_request_only(written: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_checkpoint(str(written), progress=True)
    assert "100%" in capfd.readouterr().err
    load_checkpoint(str(written), dtype="bfloat16")
    assert capfd.readouterr().err == ""


def test_a_folder_with_one_gguf_file_stands_for_it(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    shutil.copy(written, folder / "tiny.gguf")
    (folder / "README.md").write_text("")
    checkpoint = load_checkpoint(str(folder), dtype="float16")
    assert (checkpoint.name, checkpoint.model.dtype) == ("one", torch.float16)
    shutil.copy(written, folder / "other.gguf")
    with pytest.raises(LoadError, match="holds 2 GGUF files; pass the path of one"):
        load_checkpoint(str(folder))
    (folder / "other.gguf").unlink()
    (folder / "tiny.gguf").unlink()
    (folder / "tiny.gguf").symlink_to(written)
    with pytest.raises(LoadError, match="leads out of the model's folder"):
        load_checkpoint(str(folder))


def test_devices_and_pipes_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "zero.gguf").symlink_to("/dev/zero")
    for source in ("/dev/zero", str(tmp_path / "zero.gguf"), __file__):
        with pytest.raises(LoadError, match=r"not a regular file|not a GGUF file|letters GGUF"):
            load_checkpoint(source)


def test_an_unknown_gguf_architecture_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "odd.gguf", "oddball")
    with pytest.raises(LoadError, match=r"architecture 'oddball'.*not supported"):
        load_checkpoint(str(tmp_path / "odd.gguf"))


SIZES = ("embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv", "vocab_size")


@pytest.mark.parametrize("name", [*SIZES, "rope.dimension_count", "block_count"])
def test_gguf_sizes_that_do_not_fit_cost_nothing(written: Path, tmp_path: Path, name: str) -> None:
    key = f"llama.{name}".encode()
    raw = written.read_bytes()
    at = raw.index(struct.pack("<Q", len(key)) + key) + 8 + len(key) + 4
    for value in (0, 1, 2**20, 2**31, 2**32 - 1):
        (tmp_path / "tiny.gguf").write_bytes(raw[:at] + struct.pack("<I", value) + raw[at + 4 :])
        started = time.monotonic()
        with pytest.raises(LoadError, match=r"tiny\.gguf"):
            load_checkpoint(str(tmp_path / "tiny.gguf"))
        assert time.monotonic() - started < 2
