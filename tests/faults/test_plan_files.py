"""Plan files where they cannot be written, and written by several at once."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from faults.helpers import CHAIN, PLAN, PROMPT, assert_as_new

from conflayers import FULL, Plan, PlanError
from conflayers.plan import ModelIdentity, load_plan, save_plan

MODEL = ModelIdentity("LlamaForCausalLM", 12, 64, 100, "abcd")


def test_a_place_that_cannot_be_written_costs_only_the_plan(llm, fresh, tmp_path):
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")

    for place in (occupied / "plan.json", tmp_path / "missing" / "plan.json", "/proc/plan.json", "/dev/full"):
        with pytest.raises(PlanError, match="cannot write the plan to"):
            llm.save_plan(place, PLAN)

    assert occupied.read_text() == "not a folder"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert_as_new(llm, fresh)


def test_a_full_disk_leaves_the_earlier_plan(tmp_path, monkeypatch):
    path = tmp_path / "plan.json"
    save_plan(path, PLAN, MODEL, {})

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(PlanError, match="No space left on device"):
        save_plan(path, FULL, MODEL, {})

    assert load_plan(path, MODEL) == PLAN
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


def test_a_name_is_only_a_name(llm, tmp_path):
    nested = tmp_path / "a"
    nested.mkdir()
    llm.save_plan(nested / ".." / "plan.json", PLAN, note="../../etc/passwd")

    assert (tmp_path / "plan.json").is_file()
    assert llm.generate(PROMPT, max_new_tokens=4, **{**CHAIN, "plan": tmp_path / "plan.json"}).plan == PLAN
    for wrong in ("plan\0.json", "x" * 5000, ""):
        with pytest.raises(PlanError):
            llm.generate(PROMPT, method="fixed", plan=wrong)
        with pytest.raises(PlanError):
            llm.save_plan(wrong, PLAN)


# Two processes write a plan each, over and over, while this one reads.
WRITER = """
import sys
from conflayers.plan import ModelIdentity, Plan, save_plan
plan = Plan.layers(range(int(sys.argv[2])))
print("ready", flush=True)
for _ in range(300):
    save_plan(sys.argv[1], plan, ModelIdentity("LlamaForCausalLM", 12, 64, 100, "abcd"), {"x": "y" * 5000})
"""


def test_two_processes_writing_one_file_and_a_third_reading_it(tmp_path):
    path = tmp_path / "plan.json"
    plans = {2: Plan.layers(range(2)), 11: Plan.layers(range(11))}
    save_plan(path, plans[2], MODEL, {})
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, str(count)], stdout=subprocess.PIPE) for count in plans]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"

    seen = []
    while any(writer.poll() is None for writer in writers):
        seen.append(load_plan(path, MODEL))

    assert [writer.wait() for writer in writers] == [0, 0]
    for writer in writers:
        writer.stdout.close()
    assert len(seen) > 10
    assert set(seen) <= set(plans.values())
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


def test_threads_writing_one_file(tmp_path):
    path = tmp_path / "plan.json"
    threads = [
        threading.Thread(target=lambda i=i: [save_plan(path, Plan.layers([i]), MODEL, {}) for _ in range(50)])
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert load_plan(path, MODEL) in {Plan.layers([i]) for i in range(4)}
    assert json.loads(path.read_text())["format"] == 2
