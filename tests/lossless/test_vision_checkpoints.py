"""A folder with a vision-language model and its processor: messages with images, from file to text."""

from pathlib import Path

import pytest
import torch
from lossless.families import SUPPORTED
from lossless.vision import IMAGE, PATCH, QUICK, SIDE, VOCABULARY
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

import conflayers
from conflayers import InputError, Llm, SelfSpeculative

image_module = pytest.importorskip("PIL.Image")

QWEN, LLAVA = QUICK[0], QUICK[2]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}w3{% endif %}"
)
OPTIONS = {"method": "conflayers", "fallback": False, "interval": 2, "confidence_stop": 0.0, "max_draft_tokens": 3}


def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<s>", "user", *(f"w{index}" for index in range(3, IMAGE)), "<image>"]
    assert len(words) == VOCABULARY
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<s>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"image_token": "<image>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", extra_special_tokens=special)


def picture(color: tuple[int, int, int]) -> object:
    return image_module.new("RGB", (24, 20), color)


def question(*colors: tuple[int, int, int]) -> list[dict[str, object]]:
    parts = [{"type": "image", "image": picture(color)} for color in colors]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "w5 w40"}]}]


def processor() -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer=tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llava")
    LLAVA.build().save_pretrained(path)
    processor().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def llm(folder: Path) -> Llm:
    return conflayers.load(folder)


def own(llm: Llm, messages: list[dict[str, object]]) -> list[int]:
    """The way transformers' own documentation does it."""
    inputs = llm.processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    output = llm.model.generate(**inputs, do_sample=False, max_new_tokens=24)
    found: list[int] = output[0, inputs["input_ids"].shape[1] :].tolist()
    return found


def test_a_folder_gives_the_model_and_its_processor(llm: Llm) -> None:
    assert type(llm.model).__name__ == "LlavaForConditionalGeneration"
    assert isinstance(llm.processor, LlavaProcessor)
    assert llm.tokenizer is llm.processor.tokenizer


@pytest.mark.parametrize("colors", [((250, 20, 10),), ((10, 200, 30), (0, 0, 255)), ()], ids=["one", "two", "none"])
def test_messages_with_images(llm: Llm, colors: tuple[tuple[int, int, int], ...]) -> None:
    messages = question(*colors)
    result = llm.generate(messages, max_new_tokens=24, **OPTIONS)
    assert result.token_ids == own(llm, messages)
    assert result.prompt_ids.count(IMAGE) == len(colors) * (SIDE // PATCH) ** 2
    assert result.text == llm.tokenizer.decode(result.token_ids, skip_special_tokens=True)
    assert result.stats.num_draft_tokens > 0


def test_the_image_decides(llm: Llm) -> None:
    red, blue = (llm.generate(question(color), max_new_tokens=24).token_ids for color in ((255, 0, 0), (0, 0, 255)))
    assert red != blue


def test_texts_reach_a_template_that_goes_through_parts(llm: Llm) -> None:
    expected = own(llm, question())
    for prompt in ("w5 w40", [{"role": "user", "content": "w5 w40"}]):
        assert llm.generate(prompt, max_new_tokens=24, **OPTIONS).token_ids == expected
    assert llm.encode("w5 w40", chat=False) == [5, 40]


def test_a_processors_output_as_it_is(llm: Llm) -> None:
    inputs = llm.processor(text="w9 <image> w7", images=picture((9, 90, 9)), return_tensors="pt")
    expected = llm.model.generate(**inputs, do_sample=False, max_new_tokens=24)
    result = llm.generate(inputs, max_new_tokens=24, **OPTIONS)
    assert result.token_ids == expected[0, inputs["input_ids"].shape[1] :].tolist()
    speculative = SelfSpeculative(**OPTIONS)
    inside = llm.model.generate(**inputs, do_sample=False, max_new_tokens=24, custom_generate=speculative)
    assert torch.equal(inside, expected)


def test_an_image_that_is_not_there_is_missed(llm: Llm) -> None:
    with pytest.raises(InputError, match=r"speak of image, but none is in them|no images were passed"):
        llm.generate([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "w5"}]}])


def test_a_tokenizer_with_another_inside_is_no_processor() -> None:
    given = tokenizer()
    given.tokenizer = object()
    llm = Llm(SUPPORTED[0].build(), given)
    assert llm.processor is None
    assert llm.tokenizer is given


def test_images_without_a_processor_are_refused() -> None:
    text = tokenizer()
    text.chat_template = TEMPLATE
    for model in (SUPPORTED[0].build(), LLAVA.build()):
        with pytest.raises(InputError, match=r"messages hold image, but .* came without a processor"):
            Llm(model, text).generate(question((1, 2, 3)))


def test_a_processor_without_a_chat_template_says_so(llm: Llm) -> None:
    bare = processor()
    bare.chat_template = None
    with pytest.raises(InputError, match="has no chat template"):
        Llm(llm.model, bare).generate(question((1, 2, 3)))


def test_a_processor_whose_libraries_are_missing_leaves_the_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LLAVA.build().save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)

    def missing(*_: object, **__: object) -> None:
        raise ImportError("it requires the Torchvision library")

    monkeypatch.setattr("conflayers.body.build.AutoProcessor.from_pretrained", missing)
    with pytest.warns(UserWarning, match=r"prompts with images need more than is installed: .*Torchvision"):
        llm = conflayers.load(tmp_path)
    assert llm.processor is None
    assert llm.generate([5, 40], max_new_tokens=3).text
