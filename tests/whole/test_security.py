"""Nothing that is read may run code, nothing that is named may reach a shell."""

import ast
import hashlib
import io
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import params

from pipeline.errors import UserError
from pipeline.job import report
from pipeline.plan import Plan
from pipeline.store import checkpoint, files, records

SOURCES = sorted((Path(__file__).resolve().parents[2] / "pipeline").rglob("*.py"))
# call -> the keyword and value without which it is refused; None: refused always
NEEDS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "yaml.load": ("Loader", "yaml.BaseLoader"),
    **dict.fromkeys(("pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.unsafe_load")),
    **dict.fromkeys(("eval", "exec", "os.system", "os.popen", "joblib.load", "marshal.loads")),
    **dict.fromkeys(("torch.jit.load", "torch.hub.load", "pd.read_pickle", "shelve.open")),
}
SHELL_SAFE = re.compile(r"[a-z0-9_./-]+")


class Malice:
    """Unpickled without restriction, it writes a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (Path(self.target),))


def refused(call):
    """Why a call is refused, or None."""
    name = ast.unparse(call.func)
    keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
    if keywords.get("shell", "False") != "False":
        return f"{name} with a shell"
    if name not in NEEDS:
        return None
    if NEEDS[name] is None:
        return name
    key, value = NEEDS[name]
    return None if keywords.get(key) == str(value) else f"{name} without {key}={value}"


def calls(text):
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]


def test_no_module_reads_without_restriction_or_starts_a_shell():
    found = [(p.name, why) for p in SOURCES for c in calls(p.read_text()) if (why := refused(c))]
    assert SOURCES and found == []


@pytest.mark.parametrize(
    "text",
    [
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "pickle.loads(b)",
        "yaml.load(t, Loader=yaml.Loader)",
        "subprocess.run(c, shell=True)",
        "eval(t)",
    ],
)
def test_the_search_finds_what_it_looks_for(text):
    assert refused(calls(text)[0])


def test_a_malicious_resume_state_is_refused_and_runs_nothing(tmp_path):
    path, mark = tmp_path / "state.pt", tmp_path / "ran"
    content = io.BytesIO()
    torch.save({"digest": "run", "epoch": Malice(mark)}, content)
    path.write_bytes(hashlib.sha256(content.getvalue()).digest() + content.getvalue())
    assert checkpoint.load_state(path, "run") is None  # thrown away, and made again
    assert not mark.exists()


def test_malicious_weights_are_refused_and_run_nothing(tmp_path):
    path, mark = tmp_path / "weights.safetensors", tmp_path / "ran"
    for content in (pickle.dumps(Malice(mark)), b"\x08\0\0\0\0\0\0\0" + pickle.dumps(Malice(mark))):
        path.write_bytes(content)
        with pytest.raises(UserError, match="truncated or corrupt"):
            files.load_safetensors(path, "pull it")
    torch.save({"0.weight": Malice(mark)}, path)
    with pytest.raises(UserError, match="truncated or corrupt"):
        files.load_safetensors(path, "pull it")
    assert not mark.exists()


def test_a_malicious_record_is_refused_and_runs_nothing(tmp_path):
    path, mark = tmp_path / "record.npz", tmp_path / "ran"
    np.savez(path, right=np.array([Malice(mark)], dtype=object))
    with pytest.raises(UserError, match="record.npz"):
        records.read_arrays(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["a b", "$(touch ran)", "../up", "a;b", "a'b", "-n", "a/b", "Ä"])
@pytest.mark.parametrize("section", ["methods", "attacks", "archs", "datasets", "suites"])
def test_a_name_that_a_shell_could_read_otherwise_is_refused(section, name):
    changed = params()
    changed[section][name] = next(iter(changed[section].values()))
    with pytest.raises(UserError, match="a name is lower case letters"):
        Plan(changed)


def test_every_name_of_the_plan_is_safe_in_a_shell_and_stays_in_its_folder():
    plan = Plan(params())
    paths = [str(r.folder) for r in plan.graph.runs.values()]
    paths += [str(r.path) for r in plan.graph.records.values()]
    paths += [str(t.path) for t in plan.tables.values()]
    assert len(paths) > 3
    for path in paths:
        assert SHELL_SAFE.fullmatch(path) and ".." not in path and not path.startswith("-")


def test_the_head_of_a_log_holds_no_credentials(monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "DVC_PASSWORD", "GITHUB_TOKEN", "http_proxy"):
        monkeypatch.setenv(name, "sesame-open")
    assert "sesame" not in report.head()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("'https://bot:p@ss@host/a' is", "'https://host/a' is"),
        ("dvc: ssh://bot@host:22/x failed", "dvc: ssh://host:22/x failed"),
        ("http://h/x?a=1&Amz-Signature=abc&b=2: no", "http://h/x?a=1&Amz-Signature=...&b=2: no"),
        ("http://h/x?token=abc", "http://h/x?token=..."),
        ("victim@best of a/b?key", "victim@best of a/b?key"),
    ],
)  # fmt: skip
def test_an_error_shows_an_address_without_its_credentials(text, shown):
    assert str(UserError(text)) == shown


@pytest.mark.parametrize("mirror", ["https://bot:sesame@h/raw", "https://h/raw?token=sesame"])
def test_a_mirror_with_credentials_is_not_taken_from_the_file_that_git_tracks(mirror):
    with pytest.raises(UserError) as raised:
        Plan(params() | {"mirror": mirror})
    assert "export ROBUST_MIRROR=" in str(raised.value) and "sesame" not in str(raised.value)
