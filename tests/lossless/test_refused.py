"""What cannot be driven exactly is refused at once, by name and reason, and probing leaves every model as it was."""

import re

import pytest
import torch
from lossless.families import REFUSED, SUPPORTED, Family
from lossless.reference import assert_untouched, logits
from transformers import AutoModel

from conflayers import Llm
from conflayers.errors import InputError, UnsupportedModelError


@pytest.mark.parametrize(("family", "reason"), [pytest.param(*case, id=case[0].name) for case in REFUSED])
def test_refused_with_the_reason(family: Family, reason: str) -> None:
    model = family.build()
    before = logits(model)
    with pytest.raises(UnsupportedModelError) as caught:
        Llm(model)
    assert str(caught.value).startswith(type(model).__name__)
    assert re.search(reason, str(caught.value))
    assert_untouched(model)
    assert torch.equal(logits(model), before)


def test_a_model_without_a_head_is_refused() -> None:
    config = SUPPORTED[0].build().config
    with pytest.raises(UnsupportedModelError, match="LlamaModel has no language-model head"):
        Llm(AutoModel.from_config(config).eval())


def test_a_model_in_training_mode_is_refused() -> None:
    model = SUPPORTED[0].build().train()
    with pytest.raises(InputError, match="training mode"):
        Llm(model)
    assert model.training
