"""`conflayers demo` says so where its text is one that any draft gets right."""

import pytest
from typer.testing import CliRunner

from conflayers.cli import app
from conflayers.cli.demo import repeated


def test_stretches_that_stood_before_are_counted():
    assert repeated([]) == repeated(list(range(7))) == repeated(list(range(40))) == 0
    assert repeated([5] * 40) == pytest.approx(1 - 1 / 33)
    # Eight tokens over and over: the first eight stretches are new.
    assert repeated(list(range(8)) * 4) == pytest.approx(1 - 8 / 25)


@pytest.mark.parametrize(("prompt", "length", "told"), [("import os\n", 96, True), ("import os\n", 8, False)])
def test_a_text_that_repeats_itself_is_told(prompt, length, told):
    words = ["demo", "tests/zoo/control-16", "--prompt", prompt, "--max-new-tokens", str(length), "--repeat", "1"]
    found = CliRunner().invoke(app, words)

    assert found.exit_code == 0, found.output
    assert ("repeats itself" in found.output) == told
