"""The same tokens wherever Python runs: optimised, with other hashes, locales and folders, and after a fork."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults.helpers import CHAIN, PROMPT, TREE, byte_tokenizer, small_model

from conflayers import InputError, Llm, PlanError

TESTS = Path(__file__).parents[1]
# In a process of its own; the last line it prints is what it found.
SCRIPT = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import json, os, warnings
warnings.simplefilter("error")
import torch
from faults.test_environment import answers
torch.set_num_threads(1)
found = dict(optimised=sys.flags.optimize, files=os.listdir(), answers=answers())
print(json.dumps(found))
"""


def answers() -> dict:
    """By every kind of request, tokens and text; errors come where they should."""
    llm = Llm(small_model(), byte_tokenizer())
    found = {}
    for name, options in {"chain": CHAIN, "tree": TREE, "search": {"interval": 2, "fallback": False}}.items():
        for sampling in ({}, {"temperature": 1.0, "seed": 3}):
            result = llm.generate(PROMPT, max_new_tokens=12, **options, **sampling)
            found[f"{name} {sorted(sampling)}"] = [*result.token_ids, result.text]
    with pytest.raises(InputError):
        llm.generate([])
    with pytest.raises(PlanError):
        llm.save_plan("/proc/none/plan", CHAIN["plan"])
    found["text"] = "".join(llm.stream("The sea", max_new_tokens=5, **CHAIN))
    return found


def answer(folder: Path, *flags: str, **environment: str | None) -> dict:
    """What the script finds in `folder`, with variables changed or, where None, not set."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, *flags, "-c", SCRIPT],
        cwd=folder,
        env={name: value for name, value in variables.items() if value is not None},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return json.loads(done.stdout.decode().splitlines()[-1])


def test_everything_different_at_once(fresh, tmp_path):
    """Optimised, so that nothing may rely on assert; no home, no writable folder, a locale without Unicode."""
    tmp_path.chmod(0o500)
    environment = {"LC_ALL": "C", "LANG": None, "HOME": None, "PYTHONUTF8": "0", "XDG_CACHE_HOME": None}

    found = answer(tmp_path, "-O", "-P", PYTHONHASHSEED="77", **environment)

    assert found["answers"] == answers()
    assert found["answers"]["chain []"][: len(fresh)] == fresh
    assert (found["optimised"], found["files"]) == (1, [])


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONHASHSEED": "random"},
        {"LC_ALL": "tr_TR.UTF-8"},
        {"HOME": "/nonexistent", "HF_HOME": None},
        {"HOME": "/dev/null"},
        {"TMPDIR": "/nonexistent"},
        {"OMP_NUM_THREADS": "2", "PYTHONMALLOC": "debug"},
    ],
    ids=str,
)
def test_one_difference(tmp_path, environment):
    assert answer(tmp_path, **environment)["answers"] == answers()
