import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from conflayers.text import INCOMPLETE, Detokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that most characters span several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")


@given(st.text(max_size=30), st.data())
def test_pieces_are_the_text_and_never_split_a_character(tokenizer, text, data):
    ids = tokenizer(text)["input_ids"] if text else []
    detokenizer, pieces = Detokenizer(tokenizer), []
    while ids:
        count = data.draw(st.integers(1, len(ids)))
        pieces.append(detokenizer.push(ids[:count]))
        ids = ids[count:]
    last = detokenizer.finish()

    assert "".join(pieces) + last == text
    if INCOMPLETE not in text:
        assert not any(INCOMPLETE in piece for piece in pieces)
        assert last == ""


def test_bytes_that_never_become_a_character_come_out_at_the_end(tokenizer):
    half = tokenizer("é")["input_ids"][:1]
    detokenizer = Detokenizer(tokenizer)

    assert detokenizer.push(half) == ""
    assert detokenizer.finish() == INCOMPLETE


def test_special_tokens_leave_no_text(tokenizer):
    detokenizer = Detokenizer(tokenizer)

    assert detokenizer.push([tokenizer.eos_token_id]) == ""
    assert detokenizer.push(tokenizer("a")["input_ids"]) == "a"
