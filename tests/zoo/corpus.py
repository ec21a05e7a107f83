"""What the zoo learns: the source code of Python's standard library, cut into training files and held-out files."""

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 2048
END_OF_TEXT = "<|endoftext|>"
# Tests repeat themselves, and tables of characters or of help texts are no code.
LEFT_OUT = {"site-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "lib2to3", "__pycache__"}
# One file in so many is held out, by a digest of its path: the same one whatever the version of Python.
HELD_OUT_ONE_IN = 16


def files(*, held_out: bool) -> list[Path]:
    """The library's files of one part, in a fixed order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = (path for path in sorted(root.rglob("*.py")) if not is_left_out(path.relative_to(root)))
    return [path for path in paths if is_held_out(path.relative_to(root).as_posix()) == held_out]


def is_left_out(path: Path) -> bool:
    """Whether a file of the library is neither trained on nor held out."""
    # What a Python was built with is named after its platform (config-3.11-x86_64-linux-gnu, _sysconfigdata__...).
    built = any(part.startswith(("config-", "_sysconfigdata")) for part in path.parts)
    return built or bool(LEFT_OUT & set(path.parts))


def is_held_out(name: str) -> bool:
    """Whether the file of this name, relative to the library, is kept from training."""
    return hashlib.sha256(name.encode()).digest()[0] % HELD_OUT_ONE_IN == 0


def texts(*, held_out: bool) -> Iterator[str]:
    """The text of each file that has any."""
    for path in files(held_out=held_out):
        if text := path.read_text(encoding="utf-8", errors="replace"):
            yield text


def train_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of the training files."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(held_out=False), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )


def encode(tokenizer: PreTrainedTokenizerFast, *, held_out: bool) -> list[list[int]]:
    """The token ids of each file, with the end of text before and after it."""
    end = tokenizer.eos_token_id
    found = list(texts(held_out=held_out))
    return [[end, *ids, end] for ids in tokenizer(found, add_special_tokens=False, verbose=False).input_ids]
