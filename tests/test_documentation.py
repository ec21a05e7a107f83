"""Every example of the README and of the guide runs, on tiny models in place of those it names."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from cli.conftest import save_model
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from typer.testing import CliRunner

from conflayers.cli import app

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/guide.md")
# Lines of shell that are not `conflayers`: each is what a continuous integration run or another test does.
ELSEWHERE = ("make demo", "make test")
SEEING_TEMPLATE = (
    "{% for m in messages %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}\n{% endfor %}"
)


def save_seeing_model(folder: Path, text_model: Path) -> None:
    """A LLaVA with random weights that sees pictures of 28 x 28, and its processor."""
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    image = tokenizer.convert_tokens_to_ids("<image>")
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        projection_dim=16,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.4,
        bos_token_id=0,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=image)
    ).save_pretrained(folder)
    LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=SEEING_TEMPLATE,
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Names in the examples -> folders of tiny models."""
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "text", 0, context=1024)
    save_seeing_model(folder / "seeing", folder / "text")
    return {
        "HuggingFaceTB/SmolLM2-135M-Instruct": str(folder / "text"),
        "llava-hf/llava-1.5-7b-hf": str(folder / "seeing"),
        "smollm2-drafting": "smollm2-drafting",
        "smollm2": str(folder / "text"),
        "MODEL": str(folder / "text"),
    }


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of every code block; one without a language is shell."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [(language or "sh", text) for language, text in found]


def replaced(text: str, models: dict[str, str]) -> str:
    names = "|".join(map(re.escape, sorted(models, key=len, reverse=True)))
    return re.sub(rf"(?<![\w/-])(?:{names})(?![\w/-])", lambda match: models[match[0]], text)


def run_shell(text: str) -> None:
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if not words or " ".join(words[:2]) in ELSEWHERE:
            continue
        assert words[0] == "conflayers", f"nobody runs this: {line}"
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("ignore:.*pad_token_id.*")
def test_every_example_runs(page, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"picture": Image.new("RGB", (40, 30), "red")}
    for language, text in blocks(page):
        code = replaced(text, models)
        if language == "python":
            exec(compile(code, page, "exec"), names)
        else:
            assert language == "sh"
            run_shell(code)


def test_there_are_examples_of_every_door():
    guide = "".join(text for _, text in blocks("docs/guide.md"))
    doors = ("load(", ".generate(", ".stream(", "SelfSpeculative(", "pipeline(", "conflayers export", "AutoProcessor")
    assert all(door in guide for door in doors)
