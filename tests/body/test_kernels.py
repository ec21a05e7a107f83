"""Compiling the kernels: once, with whatever compiler there is, and what is said where it cannot be done."""

import ctypes
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from conflayers.body import kernels
from conflayers.errors import LoadError

REAL = next(filter(None, map(shutil.which, kernels.COMPILERS)), None)
needs_a_compiler = pytest.mark.skipif(REAL is None, reason="no C++ compiler was found")


@pytest.fixture
def found_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What `library` comes to anew: "compiled" or why not."""

    def find(cache: Path, **environment: str) -> str:
        for name, value in ({"CONFLAYERS_CACHE": str(cache), "CXX": ""} | environment).items():
            monkeypatch.setenv(name, value)
        found = kernels.library.__wrapped__()
        return found if isinstance(found, str) else "compiled"

    return find


def compiler(folder: Path, script: str, name: str = "c++") -> Path:
    """A folder with a compiler that does as `script`."""
    made = folder / name
    made.write_text(f"#!/bin/sh\n{script}\n")
    made.chmod(made.stat().st_mode | stat.S_IXUSR)
    return folder


@needs_a_compiler
def test_compiled_once_and_kept(tmp_path, found_with):
    assert found_with(tmp_path) == "compiled"
    files = sorted(tmp_path.iterdir())
    assert [one.suffix for one in files] == [".sha256", ".so"]
    made = [one.stat().st_mtime_ns for one in files]
    assert found_with(tmp_path) == "compiled"
    assert [one.stat().st_mtime_ns for one in files] == made
    assert ctypes.CDLL(str(files[1])).norm_float32


@needs_a_compiler
def test_a_folder_that_cannot_be_written_to_serves_what_it_has(tmp_path, found_with, monkeypatch):
    assert found_with(tmp_path) == "compiled"

    def read_only() -> Path:
        raise LoadError("the folder is read-only")

    monkeypatch.setattr(kernels, "cache_folder", read_only)
    assert found_with(tmp_path) == "compiled"
    assert found_with(tmp_path / "other") == "the folder is read-only"


@needs_a_compiler
def test_what_was_kept_and_cut_short_is_compiled_again(tmp_path, found_with):
    assert found_with(tmp_path / "whole") == "compiled"
    digest, kept = sorted((tmp_path / "whole").iterdir())
    content = kept.read_bytes()
    for size in (4, len(content) // 2):
        folder = tmp_path / str(size)
        folder.mkdir()
        shutil.copy(digest, folder)
        (folder / kept.name).write_bytes(content[:size])
        assert found_with(folder) == "compiled"
        assert (folder / kept.name).stat().st_size == len(content)


def test_without_a_compiler_or_a_wish_for_one(tmp_path, found_with):
    path, empty = os.environ["PATH"], tmp_path / "empty"
    empty.mkdir()
    assert found_with(tmp_path / "cache", PATH=str(empty)) == "no C++ compiler was found"
    assert found_with(tmp_path / "cache", PATH=path, CONFLAYERS_NATIVE="0") == "CONFLAYERS_NATIVE is 0"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            'case "$1" in --version) echo 1;; *) printf "in f:\\nk.cpp: error: \\374\\n" >&2; exit 1;; esac',
            "k.cpp: error: \ufffd",
        ),
        ('echo "no license" >&2; exit 3', "no license"),
        ("exit 3", "exit status 3"),
        ("sleep 60", "took more than 1 s"),
        (
            'case "$1" in --version) echo 1;; *) while [ "$1" != -o ]; do shift; done; echo no > "$2";; esac',
            "cannot be used",
        ),
    ],
)
def test_what_a_compiler_says_that_cannot_is_told_in_a_line(tmp_path, found_with, monkeypatch, script, reason):
    monkeypatch.setattr(kernels, "COMPILING_SECONDS", 1)
    folder = compiler(tmp_path, script)
    monkeypatch.setattr(kernels, "COMPILERS", ("c++",))
    words = found_with(tmp_path / "cache", PATH=f"{folder}:/bin:/usr/bin")
    assert reason in words
    assert "\n" not in words


def test_nothing_slower_is_kept_where_the_first_try_takes_too_long(tmp_path, found_with, monkeypatch):
    monkeypatch.setattr(kernels, "COMPILING_SECONDS", 1)
    monkeypatch.setattr(kernels, "COMPILERS", ("c++",))
    folder = compiler(
        tmp_path,
        'case "$*" in --version) echo 1;; *-march=native*) sleep 60;; '
        '*) while [ "$1" != -o ]; do shift; done; echo no > "$2";; esac',
    )
    assert "took more than 1 s" in found_with(tmp_path / "cache", PATH=f"{folder}:/bin:/usr/bin")
    assert not list((tmp_path / "cache").rglob("kernels-*"))


@needs_a_compiler
def test_the_next_compiler_is_asked_and_the_one_that_is_wanted_first(tmp_path, found_with, monkeypatch):
    monkeypatch.setattr(kernels, "COMPILERS", ("c++", "other"))
    folder = compiler(compiler(tmp_path, "exit 1"), f'exec {REAL} "$@"', "other")
    path = f"{folder}:/bin:/usr/bin"
    assert found_with(tmp_path / "cache", PATH=path) == "compiled"
    wanted = tmp_path / "wanted"
    wanted.mkdir()
    mine = compiler(wanted, f'echo "$1" >> {wanted}/asked; shift; exec {REAL} "$@"', "mine") / "mine"
    assert found_with(tmp_path / "another", PATH=path, CXX=f"{mine} -first") == "compiled"
    assert set((wanted / "asked").read_text().split()) == {"-first"}


@needs_a_compiler
@pytest.mark.parametrize("named", ["c++ 'x", "c++ \\", "  ", "/nowhere/c++"])
def test_a_wish_that_is_no_command_is_passed_over(tmp_path, found_with, named):
    assert found_with(tmp_path, CXX=named) == "compiled"


@needs_a_compiler
def test_a_digest_that_is_none_is_made_anew(tmp_path, found_with):
    assert found_with(tmp_path) == "compiled"
    digest = next(tmp_path.glob("*.sha256"))
    digest.write_bytes(b"\xff\xfe")
    assert found_with(tmp_path) == "compiled"
    assert len(digest.read_text()) == 64


@needs_a_compiler
def test_without_tuning_for_the_processor_where_the_compiler_knows_none(tmp_path, found_with):
    folder = compiler(tmp_path, f'case "$*" in *march*) exit 1;; *) exec {REAL} "$@";; esac')
    assert found_with(tmp_path / "cache", PATH=f"{folder}:{os.environ['PATH']}") == "compiled"
