import json
import signal
import subprocess
import sys

import pytest

import conflayers
from conflayers import cli
from conflayers.bench.peers import PEERS
from conflayers.bench.sweeps import SWEEPS
from conflayers.cli import console
from conflayers.errors import InputError
from conflayers.methods import DRAFTER_OPTIONS, METHODS, check_names

COMMAND = (sys.executable, "-c", "from conflayers.cli import main; main()")


def test_version(run):
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"conflayers {conflayers.__version__}\n")


def test_help_names_every_command(run):
    result = run("--help")
    assert result.exit_code == 0
    for command in ("generate", "check", "methods", "inspect", "demo"):
        assert command in result.stdout


def test_unknown_command(run):
    result = run("generat")
    assert result.exit_code == 2
    assert "generat" in result.stderr


def test_methods_are_listed_with_their_options(run):
    result = run("methods")
    assert result.exit_code == 0
    for name, entry in METHODS.items():
        assert name in result.stdout
        assert all(option in result.stdout for option in entry.options)


def test_peers_and_sweeps_of_the_benchmark_are_listed_too(run):
    printed = run("methods").stdout
    found = json.loads(run("methods", "--json").stdout)

    assert [row["name"] for row in found["peers"]] == list(PEERS)
    assert {row["name"]: tuple(row["methods"]) for row in found["sweeps"]} == {
        name: sweep.methods for name, sweep in SWEEPS.items()
    }
    for row in (*found["peers"], *found["sweeps"]):
        assert row["name"] in printed
        assert row.get("summary") or row["question"]


def test_methods_as_json(run):
    listed = {row["name"]: row for row in json.loads(run("methods", "--json").stdout)["methods"]}
    assert set(listed) == set(METHODS)
    assert set(listed["fixed"]["options"]) == {"fallback", *DRAFTER_OPTIONS}
    assert listed["conflayers"]["source"] == METHODS["conflayers"].source
    # What a method is listed with it takes, and nothing else.
    for name, row in listed.items():
        check_names(name, row["options"])
        for option in {*DRAFTER_OPTIONS, "fallback"} - set(row["options"]):
            with pytest.raises(InputError, match="has no option"):
                check_names(name, [option])


def test_demo_tells_its_story_and_ends_with_the_document(run, model):
    result = run("demo", model, "--max-new-tokens", "12", "--repeat", "2")
    assert result.exit_code == 0
    *story, last = result.stdout.splitlines()
    document = json.loads(last)
    assert [row["method"] for row in document["rows"]] == ["vanilla", "hf", "conflayers", "auto"]
    assert all(row["identical"] and row["new_tokens"] == 24 for row in document["rows"])
    assert document["dtype"] == "float32"
    assert "plain decoding" in "\n".join(story)


def test_demo_prints_only_the_document_if_asked(run, model):
    result = run("demo", model, "--max-new-tokens", "4", "--repeat", "1", "--json-only")
    assert result.stdout.count("\n") == 1
    assert len(json.loads(result.stdout)["token_ids"]) == 4


@pytest.mark.parametrize(
    ("raised", "code", "shown"),
    [
        (KeyboardInterrupt(), 130, ""),
        (OSError(28, "No space left on device", "plan.json"), 2, "error: plan.json: No space left on device\n"),
        (conflayers.LoadError("first\nsecond\x1b[2J"), 2, "error: first second [2J\n"),
    ],
)
def test_what_a_user_can_meet_ends_without_a_traceback(run, monkeypatch, raised, code, shown):
    def load(*_, **__):
        raise raised

    monkeypatch.setattr("conflayers.api.load", load)
    result = run("check", "any")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", shown)


def test_a_watcher_sees_that_something_takes_long(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with console.busy("loading") as tell:
        assert "loading" in capsys.readouterr().err
        tell("comparing")
    shown = capsys.readouterr()
    assert "comparing" in shown.err
    assert shown.out == ""


def test_nobody_watching_sees_nothing(capsys):
    with console.busy("loading") as tell:
        tell("comparing")
    assert capsys.readouterr() == ("", "")


def test_the_installed_command_fails_in_one_line():
    done = subprocess.run(
        [*COMMAND, "generate", "./nowhere", "--prompt", "hello"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: ./nowhere: no such file or folder\n"


def test_the_installed_command_prints_nothing_beside_its_document(model):
    arguments = ("generate", model, "--prompt", "the sky is", "--max-new-tokens", "4", "--compare", "--json")
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(row["identical"] for row in json.loads(done.stdout)["rows"])


@pytest.fixture
def interruptible():
    """SIGINT as it is where a command begins, and as it was afterwards."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def import_that_fails(interrupted: bool) -> None:
    try:
        if interrupted:
            signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        pass
    raise ModuleNotFoundError("Could not import module")


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_that_a_library_made_an_error_of_is_still_one(monkeypatch, capsys):
    monkeypatch.setattr(cli, "app", lambda: import_that_fails(True))
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.usefixtures("interruptible")
def test_an_error_that_nobody_interrupted_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "app", lambda: import_that_fails(False))
    with pytest.raises(ModuleNotFoundError):
        cli.main()


INTERRUPTED_IMPORT = """
import runpy, sys

class Interrupted:
    def find_spec(self, name, *rest):
        if name == "conflayers.cli.search":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
runpy.run_module("conflayers", run_name="__main__")
"""


def test_an_interruption_while_the_commands_are_imported_prints_no_traceback():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_IMPORT], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
