"""Every example of the README and of the pages runs, on tiny models in place of those it names."""

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import save_model
from lossless.test_vision_checkpoints import LLAVA, processor
from PIL import Image
from typer.testing import CliRunner

from conflayers.cli import app
from conflayers.methods import METHODS
from conflayers.profile import bandwidth
from conflayers.selectors import clasp, conflayers, cosine, draft_verify, knapspec, rule, swift, uniform

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/guide.md", "docs/methods.md")
# Lines of shell that are not `conflayers`: each is what a continuous integration run or another test does.
ELSEWHERE = ("make demo", "make test")
# Heading of docs/methods.md -> what has the defaults that stand there.
DEFAULTS = {
    "## conflayers": conflayers.ConfLayers,
    '### variant="paper"': rule.Settings,
    "## swift": swift.Settings,
    "## clasp": clasp.Settings,
    "## knapspec": knapspec.Settings,
    "## cosine": cosine.Settings,
    "## draft-verify": draft_verify.Settings,
    "## uniform": uniform.uniform_plan,
    "## random": uniform.random_plan,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Names in the examples -> folders of tiny models."""
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "text", 0, context=1024)
    LLAVA.build().save_pretrained(folder / "seeing")
    processor().save_pretrained(folder / "seeing")
    (folder / "task.jsonl").write_text('{"prompt": "the sky is"}\n{"prompt": "the sea is"}\n', encoding="utf-8")
    return {
        "FILE": str(folder / "task.jsonl"),
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
    monkeypatch.setattr(bandwidth, "BYTES", 1 << 20)
    names: dict[str, Any] = {"picture": Image.new("RGB", (40, 30), "red")}
    for language, text in blocks(page):
        code = replaced(text, models)
        if language == "python":
            exec(compile(code, page, "exec"), names)
        elif language != "text":
            assert language == "sh"
            run_shell(code)


def test_there_are_examples_of_every_door():
    guide = "".join(text for _, text in blocks("docs/guide.md"))
    doors = ("load(", ".generate(", ".stream(", "SelfSpeculative(", "pipeline(", "conflayers export", "AutoProcessor")
    assert all(door in guide for door in doors)


def test_every_method_has_its_section_with_every_option():
    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\S+)$(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
    for name, entry in METHODS.items():
        parts = [f"**{part}.**" for part in ("Idea", "Rule", "Options", "Cost", "Source", "Changed")]
        parts += [f"`{option}`" for option in entry.options]
        missing = [part for part in parts if part not in sections[name]]
        assert not missing, f"docs/methods.md, {name}: {missing}"
        assert entry.source in sections[name]


@pytest.mark.parametrize("heading", DEFAULTS)
def test_the_defaults_of_the_page_are_those_of_the_code(heading):
    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    section = page.split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    options = section.split("**Options.**", 1)[1].split("\n\n", 1)[0]
    written = dict(re.findall(r"`(\w+)`\s\(([\d.]+)", options))
    defaults = {name: one.default for name, one in inspect.signature(DEFAULTS[heading]).parameters.items()}

    assert written
    assert {name: float(value) for name, value in written.items()} == {name: defaults[name] for name in written}


@pytest.mark.parametrize("name", [name for name in METHODS if f"## {name}" in DEFAULTS])
def test_the_defaults_that_methods_list_are_those_of_the_code(name):
    found = {option: re.search(r"\(([\d.]+)\)", meaning) for option, meaning in METHODS[name].options.items()}
    defaults = inspect.signature(DEFAULTS[f"## {name}"]).parameters

    assert any(found.values())
    for option, value in found.items():
        # ConfLayers' lines also give the defaults of its variants.
        if value and not (name == "conflayers" and option not in ("interval", "context_window")):
            assert float(value[1]) == defaults[option].default, option
