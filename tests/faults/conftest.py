import pytest
from faults.helpers import CHAIN, PROMPT, byte_tokenizer, small_model

from conflayers import Llm


@pytest.fixture(scope="module")
def llm() -> Llm:
    return Llm(small_model())


@pytest.fixture(scope="session")
def fresh() -> list[int]:
    """What a model that has answered nothing yet says, with drafts."""
    return Llm(small_model()).generate(PROMPT, max_new_tokens=10, **CHAIN).token_ids


@pytest.fixture(scope="session")
def reading() -> Llm:
    """A model with a tokenizer of bytes."""
    return Llm(small_model(), byte_tokenizer())
