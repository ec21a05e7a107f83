"""Model folders whose `generate` is self-speculative wherever transformers loads them with trust_remote_code."""

import json
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from pprint import pformat
from typing import TYPE_CHECKING, Any

from conflayers.errors import InputError
from conflayers.files import write_whole

if TYPE_CHECKING:
    from conflayers.api import Llm

MARK = "# Written by `conflayers export`."
GENERATE = f'''{MARK}
"""Self-speculative decoding in place of transformers' own `generate`, given trust_remote_code=True.

The settings are those of ../conflayers.json, once more because transformers copies this file and no other. To change
them, run `conflayers export` on the folder again.
"""

try:
    from conflayers.exported import generate_with
except ImportError as error:
    raise ImportError(
        "generate() of this model folder needs the package conflayers: install it with `pip install conflayers`, "
        "or load the folder without trust_remote_code"
    ) from error

SETTINGS = {{settings}}


def generate(*inputs, model, **arguments):
    return generate_with(SETTINGS, model, *inputs, **arguments)
'''


@dataclass(frozen=True, slots=True)
class Export:
    """What is to be written where.

    Attributes:
        folder: a model folder that is there, or one to be made.
        new: whether the model is to be written too.
        method, plan, options: as for `Llm.generate`; the plan is the path of a saved one.
        stats: a file that every request appends a line of statistics to.
        overwrite: replace what is in the way.
    """

    folder: Path
    new: bool
    method: str = "conflayers"
    plan: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)
    stats: Path | None = None
    overwrite: bool = False

    def check(self) -> None:
        """Find out what can be known to be wrong before a model is loaded.

        Raises:
            InputError: something in the way that is not ours, or options that do not exist.
        """
        from conflayers.methods import build_method
        from conflayers.plan import FULL

        build_method(self.method, 1, None if self.plan is None else FULL, **self.options)
        try:
            json.dumps(self.options, allow_nan=False)
        except ValueError as error:
            raise InputError(f"the options cannot be written to a file: {error}") from error
        if self.plan is not None and not self.plan.is_file():
            raise InputError(f"no plan file at {self.plan}")
        if self.new:
            self._check_room()
        else:
            self._check_model_folder()

    def _check_room(self) -> None:
        if not self.folder.parent.is_dir():
            raise InputError(f"cannot write {self.folder}: there is no folder {self.folder.parent}")
        if _is_free(self.folder):
            return
        if not self.folder.is_dir():
            raise InputError(f"cannot write {self.folder}: it is a file")
        if not self.overwrite:
            raise InputError(f"{self.folder} is not empty: choose another folder, or replace it with --overwrite")
        if not (self.folder / "config.json").is_file() or self.folder.is_symlink():
            raise InputError(
                f"{self.folder} is not a model folder, and nothing else is replaced: choose another folder"
            )

    def _check_model_folder(self) -> None:
        if not (self.folder / "config.json").is_file():
            raise InputError(f"{self.folder} is not a model folder: name the model to write there with --model")
        code = self.folder / "custom_generate" / "generate.py"
        if code.is_file() and not code.read_text(encoding="utf-8", errors="replace").startswith(MARK):
            if not self.overwrite:
                raise InputError(f"{code} is there and not ours: replace it with --overwrite")
        elif code.exists() and not code.is_file():
            raise InputError(f"cannot write {code}: it is not a file")

    def write(self, llm: "Llm") -> None:
        """Write it. A new folder appears whole or not at all, and so does every file added to one that is there.

        Args:
            llm: of the model that is written, or that is in the folder.

        Raises:
            InputError: the model cannot be saved. PlanError: the plan is not for it.
        """
        document = self._settings(llm)
        if not self.new:
            self._add(self.folder, document)
            return
        staging = Path(tempfile.mkdtemp(prefix=f".{self.folder.name[:100]}.", dir=self.folder.parent))
        try:
            _save(llm, staging)
            self._add(staging, document)
            staging.chmod(0o755)
            _put_in_place(staging, self.folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _settings(self, llm: "Llm") -> dict[str, Any]:
        from conflayers.exported import FORMAT

        llm.task(self.method, None if self.plan is None else self.plan, **self.options)
        return {
            "format": FORMAT,
            "method": self.method,
            "options": self.options,
            "plan": None if self.plan is None else json.loads(self.plan.read_text(encoding="utf-8")),
            "stats": None if self.stats is None else str(self.stats.absolute()),
        }

    def _add(self, folder: Path, document: dict[str, Any]) -> None:
        (folder / "custom_generate").mkdir(exist_ok=True)
        if document["plan"] is None:
            (folder / "conflayers_plan.json").unlink(missing_ok=True)
        else:
            write_whole(folder / "conflayers_plan.json", json.dumps(document["plan"], indent=1) + "\n")
        write_whole(folder / "conflayers.json", json.dumps(document, indent=1) + "\n")
        code = GENERATE.replace("{settings}", pformat(document, width=116, sort_dicts=False))
        write_whole(folder / "custom_generate" / "generate.py", code)


def _is_free(folder: Path) -> bool:
    if folder.is_dir() and not folder.is_symlink():
        return not any(folder.iterdir())
    return not (folder.exists() or folder.is_symlink())


def _save(llm: "Llm", folder: Path) -> None:
    from conflayers.body.progress_bars import progress_bars

    if type(llm.model).__module__.startswith("transformers_modules"):
        raise InputError(f"{llm.name} runs code of its own, which is not copied: export into its own folder")
    try:
        with progress_bars(shown=False):
            llm.model.save_pretrained(folder)
            for part in (llm.tokenizer, llm.processor):
                if part is not None:
                    part.save_pretrained(folder)
    except (ValueError, TypeError) as error:
        raise InputError(f"transformers cannot save {llm.name}: {error}") from error


def _put_in_place(staging: Path, folder: Path) -> None:
    if _is_free(folder):
        with suppress(FileNotFoundError):
            folder.rmdir()
        staging.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name[:100]}.", dir=folder.parent))
    try:
        folder.rename(old / "replaced")
        try:
            staging.rename(folder)
        except OSError:
            (old / "replaced").rename(folder)
            raise
    except OSError:
        # Whatever is still in there is the caller's: only an empty folder goes.
        with suppress(OSError):
            old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)
