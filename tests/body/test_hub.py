import hashlib
import http.server
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from conflayers.body import hub
from conflayers.body.load import load_checkpoint
from conflayers.errors import LoadError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="10KB")
    assert len([*folder.glob("*.safetensors")]) > 1
    return folder


@dataclass
class Hub:
    """A hub on this machine: repositories by id, and what has been asked of it."""

    repos: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        parts = path.strip("/").split("/")
        api = parts[0] == "api"
        repo = "/".join(parts[2:4] if api else parts[:2])
        revision = (parts[5] if len(parts) > 5 else "main") if api else parts[3]
        if repo in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if repo not in self.repos:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if revision not in ("main", "v1", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        folder = self.repos[repo]
        if api:
            files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
            info = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
            return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()
        file = folder / "/".join(parts[4:])
        if not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        raw = file.read_bytes()
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(raw).hexdigest()}"'}, raw


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


def point_at(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def served(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = state.answer(urlsplit(self.path).path)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    point_at(server.server_port, monkeypatch)
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_hub_id_loads_and_then_loads_offline(
    served: Hub, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    repo = Path(shutil.copytree(saved, tmp_path / "repo"))
    for name in ("pytorch_model.bin", "mine.py", "consolidated.safetensors", "original/params.json", "logo.png"):
        (repo / name).parent.mkdir(exist_ok=True)
        (repo / name).write_text("not wanted")
    served.repos["org/tiny"] = repo
    online = load_checkpoint("org/tiny")
    assert (online.name, online.source) == ("org/tiny", "org/tiny")
    assert online.model.config.name_or_path == "org/tiny"
    asked = {path.rsplit("/", 1)[1] for path in served.asked if "/resolve/" in path}
    assert asked == {file.name for file in saved.iterdir()}
    assert capfd.readouterr().err == ""

    go_offline(monkeypatch)
    served.asked.clear()
    offline = load_checkpoint("org/tiny").model.state_dict()
    assert served.asked == []
    assert all(torch.equal(offline[name], value) for name, value in online.model.state_dict().items())


def test_all_files_are_of_the_asked_revision(served: Hub, saved: Path) -> None:
    served.repos["org/tiny"] = saved
    snapshot = hub.fetch_snapshot("org/tiny", revision="v1")
    assert (snapshot.commit, snapshot.folder.name, snapshot.online) == (COMMIT, COMMIT, True)
    assert load_checkpoint("org/tiny", revision="v1").model.config.num_hidden_layers == 2
    with pytest.raises(LoadError, match="not at revision 'v2'"):
        load_checkpoint("org/tiny", revision="v2")


def test_code_is_fetched_only_where_it_is_trusted(served: Hub, saved: Path, tmp_path: Path) -> None:
    repo = Path(shutil.copytree(saved, tmp_path / "repo"))
    (repo / "mine.py").write_text("raise SystemExit")
    config = json.loads((repo / "config.json").read_text())
    auto_map = {"AutoConfig": "mine.Conf", "AutoModelForCausalLM": "mine.Model"}
    (repo / "config.json").write_text(json.dumps(config | {"model_type": "mine", "auto_map": auto_map}))
    served.repos["org/mine"] = repo
    with pytest.raises(LoadError, match=r"mine\.Model.*--trust-remote-code"):
        load_checkpoint("org/mine")
    assert not any(path.endswith(".py") for path in served.asked)
    assert (hub.fetch_snapshot("org/mine", code=True).folder / "mine.py").exists()


def test_what_a_repository_has_instead_is_named(served: Hub, saved: Path, tmp_path: Path) -> None:
    for name, files in {
        "pickled": ["config.json", "pytorch_model.bin"],
        "packed": ["q4.gguf"],
        "data": ["a.csv"],
    }.items():
        served.repos[f"org/{name}"] = tmp_path / name
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_bytes((saved / file).read_bytes() if (saved / file).exists() else b"x")
    for name, reason in {
        "pickled": "org/pickled: .*pickle files only",
        "packed": "`hf download org/packed q4.gguf`. and pass the path",
        "data": "not a transformers model",
    }.items():
        with pytest.raises(LoadError, match=reason):
            load_checkpoint(f"org/{name}")


def test_an_unknown_or_closed_repository_is_named(served: Hub) -> None:
    served.gated.add("org/closed")
    with pytest.raises(LoadError, match="org/nope: no such file or folder, and no such public model"):
        load_checkpoint("org/nope")
    with pytest.raises(LoadError, match=r"org/closed: accept its terms .* `hf auth login`"):
        load_checkpoint("org/closed")


def test_an_incomplete_cache_says_what_is_missing(
    served: Hub, saved: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.repos["org/tiny"] = saved
    folder = hub.fetch_snapshot("org/tiny").folder
    go_offline(monkeypatch)
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(LoadError, match=f"{shard.name}, which is missing.*`hf download org/tiny`"):
        load_checkpoint("org/tiny")
    with pytest.raises(
        LoadError, match=r"org/other: .*not in the cache.*offline mode.*`hf download org/other`.*folder"
    ):
        load_checkpoint("org/other")
    assert cache.exists()


@pytest.mark.usefixtures("cache")
def test_a_silent_hub_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "TIMEOUT_SECONDS", 0.3)
    started = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_at(silent.getsockname()[1], monkeypatch)
        with pytest.raises(LoadError, match=r"org/tiny: .*no hub"):
            load_checkpoint("org/tiny")
    # And one where nobody listens.
    with pytest.raises(LoadError, match=r"org/tiny: .*no hub"):
        load_checkpoint("org/tiny")
    assert time.monotonic() - started < 5


def test_a_download_that_breaks_off_names_the_file(served: Hub, saved: Path, tmp_path: Path) -> None:
    repo = Path(shutil.copytree(saved, tmp_path / "repo"))
    served.repos["org/tiny"] = repo
    answer = served.answer

    def lose_a_shard(path: str) -> tuple[int, dict[str, str], bytes]:
        return (404, {"X-Error-Code": "EntryNotFound"}, b"") if "00002" in path else answer(path)

    served.answer = lose_a_shard  # type: ignore[method-assign]
    with pytest.raises(LoadError, match=r"org/tiny: fetching model-00002-of-\d+\.safetensors failed"):
        load_checkpoint("org/tiny")
