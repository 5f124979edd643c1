"""`python -m pipeline judge`: a checkpoint's row is the pipeline's own of the same net."""

import importlib
import re
import shlex
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import others
import pytest
import tiny
import torch
from projects import ROOT, published
from torch import Tensor, nn
from victims import pgd

from pipeline.core.draws import Draws
from pipeline.core.ensemble import combine
from pipeline.errors import UserError
from pipeline.loading import models, modules
from pipeline.loading.images import Split, load_split, subset
from pipeline.plan import Plan
from pipeline.plan.graph import outside
from pipeline.plan.graph.outside import sum_module
from pipeline.plan.graph.suites import FOLDING
from pipeline.share import writer
from pipeline.store.files import load_safetensors, sha256_of
from pipeline.store.records import meta, read_arrays
from pipeline.tools import judge, judging

THEIRS = {
    "kuangliu": lambda: others.CifarResNet([4, 8, 16], 1, channels=1),
    "TRADES": lambda: others.Wide(1, 1, False, channels=1),
}


def asked(arch: str = "tiny") -> dict:
    """The standard row of digits, of one member, under three suites."""
    found = tiny.table_of(["standard"], reference="none")
    found["archs"]["narrow"] = {"base": "wrn34_10", "depth": 10, "widen": 1}
    found["scales"]["demo"]["archs"] = {"resnet20": arch}
    return found


def in_their_names(weights: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """A network's tensors under another project's names, which follow the same order."""
    ours = [n for n in weights if "num_batches" not in n]
    theirs = [n for n in network.state_dict() if "num_batches" not in n]
    found = {n: weights[own] for n, own in zip(theirs, ours, strict=True)}
    assert all(found[n].shape == network.state_dict()[n].shape for n in found)
    return found


def trained(plan: Plan) -> dict[str, Tensor]:
    """The tensors of the standard row's network, in their order."""
    (run,) = tiny.trained(plan, "standard")
    weights, _ = load_safetensors(run.weights, "")
    network = models.build_members(run.spec, load_split(run.dataset, "test", tiny.CPU), tiny.CPU)[0]
    return {name: weights[f"0.{name}"] for name in network.state_dict()}


def judged(*words: str) -> Path:
    """The folder of a judgement just made."""
    judge.main(["net.pth", "--dataset", "digits", *words])
    return max(Path("work/judge").iterdir(), key=lambda folder: folder.stat().st_mtime)


@pytest.mark.parametrize("whose, arch", [("kuangliu", "tiny"), ("TRADES", "narrow")])
def test_verdicts_are_to_the_byte_those_of_the_pipelines_own_row(
    tmp_path, monkeypatch, capsys, whose, arch
):
    plan = tiny.place(tmp_path, monkeypatch, asked(arch))
    tiny.made(plan, ["standard"])
    own, _, _ = tiny.tabulated(plan)
    torch.save({"net": in_their_names(trained(plan), THEIRS[whose]())}, "net.pth")

    capsys.readouterr()
    folder = judged("--arch", arch, "--expect-clean", str(own.clean["standard"]))
    text = capsys.readouterr().out
    (cell,) = plan.table("table1").cells
    for suite, record in cell.records.items():
        ours = read_arrays(record.path)
        found = [read_arrays(path) for path in folder.glob("results/records/**/*.npz")]
        (mine,) = [arrays for arrays in found if meta(arrays)["suite"] == suite]
        assert ours.keys() == mine.keys()
        for key in ours.keys() - {"meta"}:
            assert ours[key].tobytes() == mine[key].tobytes(), key

    worst = 100 * own.core_worst["standard"]
    assert f"core_worst {worst:.1f} [" in text and "verdict: " in text
    assert "mean: " in text and "victims:\n  judged: {of: file, file: net.pth, sha256:" in text

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")}
    judged("--arch", arch, "--expect-clean", str(own.clean["standard"]))
    again = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")} == before
    assert again.splitlines()[-1] == text.splitlines()[-1] and verdict(again) == verdict(text)


def verdict(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("verdict: "))


@pytest.fixture
def nets(tmp_path, monkeypatch) -> dict[str, Tensor]:
    """A small trained network's tensors, in a project where its suites are cheap."""
    plan = tiny.place(tmp_path, monkeypatch, asked())
    return trained(plan)


WORDS = ("--arch", "tiny", "--images", "20")


def test_another_normalisation_is_caught_before_any_attack(nets, capsys):
    torch.save(nets, "net.pth")
    words = (*WORDS, "--mean", "0.9", "--std", "0.05", "--expect-clean", "0.95")
    with pytest.raises(UserError, match="clean accuracy is 0.*0.950 is expected.*not attacked"):
        judged(*words)
    assert not list(Path("work/judge").rglob("*.npz"))
    judged(*WORDS)
    assert "digits's training images" in capsys.readouterr().out


def test_several_files_are_an_ensemble_with_a_rule(nets, capsys):
    torch.save(nets, "net.pth")
    torch.save({n: 1.1 * v if v.is_floating_point() else v for n, v in nets.items()}, "two.pth")
    judge.main(["net.pth", "two.pth", "--dataset", "digits", *WORDS, "--combine", "max_conf"])
    text = capsys.readouterr().out
    assert "2 network(s)" in text and "members: 2" in text and "combine: max_conf" in text
    assert "file: [net.pth, two.pth]" in text and "verdict: " in text


class Says(nn.Module):
    """One class, whatever it sees."""

    def __init__(self, answer: int) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, 2]."""
        return torch.eye(2)[[self.answer] * len(images)]


@pytest.mark.parametrize("rule, clean", [("random_one", 0.5), ("random_each", 0.5), ("vote", 1)])
def test_an_expected_clean_accuracy_is_that_over_a_random_rules_draws(monkeypatch, rule, clean):
    """One draw for 250 images was compared with it, which is one member's."""
    split = Split(torch.zeros(8, 1, 2, 2, dtype=torch.uint8), torch.zeros(8).long(), [], [], [])
    victim = combine(rule, [Says(0), Says(1)])
    monkeypatch.setattr(judge, "load_split", lambda *_: split)
    monkeypatch.setattr(models, "load_victim", lambda *_: victim)
    record = SimpleNamespace(images=len(split), split="test")
    cell = SimpleNamespace(victim=SimpleNamespace(dataset=""), records={"core": record})
    judge.check_clean(None, cell, clean, {}, tiny.CPU)
    with pytest.raises(UserError, match=f"clean accuracy is {clean:.3f} on 8 images, 0.250 is exp"):
        judge.check_clean(None, cell, 0.25, {"mean": [0], "std": [1]}, tiny.CPU)


def test_a_params_yaml_without_a_worst_case_is_refused(tmp_path, monkeypatch):
    plain = tiny.table_of(["standard"], reference="none", suites=["unified"], columns=["clean"])
    plain["suites"] = {"unified": plain["suites"]["unified"]}
    tiny.place(tmp_path, monkeypatch, plain)
    Path("net.pth").touch()
    with pytest.raises(UserError, match="params.yaml: suites: has neither core nor adapt") as e:
        judge.main(["net.pth", "--dataset", "digits", "--arch", "tiny"])
    tiny.line(e)


OWN = """import torch
from beside import WIDTH

class Mine(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(1, WIDTH, 3), torch.nn.ReLU())
        self.last = torch.nn.Linear(WIDTH * 36, 10)
        self.register_buffer("mean", torch.tensor([0.5]))

    def forward(self, x):
        return self.last(self.body(x - self.mean).flatten(1))

def build():
    return Mine()
"""


def answering(answer: str) -> str:
    """The same network with another answer, made of its scores."""
    first, last = "        return self.last(", "(x - self.mean).flatten(1))\n"
    assert OWN.count(first) == OWN.count(last) == 1
    late = "def late(scores):\n    from beside import WIDTH\n    return scores\n"
    made = OWN.replace(first, "        scores = self.last(")
    return made.replace(last, f"{last}        return {answer}\n") + late


def test_any_module_of_a_users_own_file_is_judged(tmp_path, monkeypatch, capsys):
    plan = tiny.place(tmp_path, monkeypatch, asked())
    Path("nets").mkdir()
    script = f"{OWN}\nimport argparse\nargparse.ArgumentParser().parse_args()  # not of judge's"
    Path("nets/my_net.py").write_text(script)
    Path("nets/beside.py").write_text("WIDTH = 3")
    monkeypatch.syspath_prepend("nets")
    mine = importlib.import_module("my_net").Mine().eval()
    torch.save({"state_dict": {f"module.{n}": v for n, v in mine.state_dict().items()}}, "net.pth")

    folder = judged("--model", "nets/my_net.py:build", "--images", "200")
    text = capsys.readouterr().out
    assert "model: nets/my_net.py:build" in text and "mean: [0.0]" in text
    split = load_split(plan.dataset("digits"), "test", tiny.CPU)
    rows = torch.tensor(subset(200, len(split)))
    right = (mine(split.floats(rows)).argmax(1) == split.labels[rows]).numpy()
    for path in folder.glob("results/records/**/*.npz"):
        found = read_arrays(path)
        assert (found["clean/right"] == right).all()
        # Records of when such a net's own layers were folded wrongly have another name.
        assert meta(found)["spec"]["folding"] == FOLDING


ARGUED = "import argparse\np = argparse.ArgumentParser()\n{}\np.parse_args()"


@pytest.mark.parametrize(
    "code, model, text",
    [
        (OWN, "my_net.py", "--model: .* is not like my_file.py:build"),
        (OWN, "none.py:build", "none.py is missing"),
        (OWN, "my_net.py:built", "my_net.py: AttributeError: .*no attribute 'built'"),
        (
            ARGUED.format("p.add_argument('x')"),
            "my_net.py:build",
            "my_net.py, line 4: ends Python w",
        ),
        (ARGUED.format("1 / 0"), "my_net.py:build", "my_net.py, line 3: ZeroDivisionError"),
        ("1 / 0", "my_net.py:build", "my_net.py, line 1: ZeroDivisionError: division by zero"),
        ("def build():\n    return 3", "my_net.py:build", r"build\(\) gives no torch.nn.Module"),
        (OWN.replace("last", "end"), "my_net.py:build", r"1 missing|2 missing \(end.weight, end.b"),
        (answering("scores, scores"), "my_net.py:build", "digits its network gives tuple, not log"),
        (answering("scores[:, :3]"), "my_net.py:build", r"gives \(2, 3\), not logits \(2, 10\)"),
        (answering("scores.repeat(1, 10)"), "my_net.py:build", r"\(2, 100\), .*name the data set"),
        (answering("scores @ x"), "my_net.py:build", "my_net.py, line 13: RuntimeError: "),
        (answering("late(scores)"), "my_net.py:build", "No module named 'beside'; import it where"),
    ],
)
def test_what_is_wrong_with_a_users_module_is_said_in_one_line(
    tmp_path, monkeypatch, code, model, text
):
    tiny.place(tmp_path, monkeypatch, asked())
    monkeypatch.delitem(sys.modules, "beside", raising=False)  # another test's
    Path("my_net.py").write_text(code)
    Path("beside.py").write_text("WIDTH = 3")
    own = {"body.0.weight": torch.ones(3, 1, 3, 3), "body.0.bias": torch.ones(3)}
    own |= {"last.weight": torch.ones(10, 108), "last.bias": torch.ones(10), "mean": torch.ones(1)}
    torch.save(own, "net.pth")
    with pytest.raises(UserError, match=text) as raised:
        judge.main(["net.pth", "--dataset", "digits", "--model", model])
    tiny.line(raised)


@pytest.mark.parametrize("images, check", [("20", "C13"), ("200", "C21")])
def test_a_flag_that_doubts_the_numbers_is_the_verdict(nets, capsys, images, check):
    constant = {**nets, "head.weight": 0 * nets["head.weight"]}  # one answer to every image
    torch.save(constant, "net.pth")
    judged("--arch", "tiny", "--images", images)
    text = capsys.readouterr().out
    assert verdict(text).startswith(f"verdict: not trusted: {check}: ")
    files = re.findall(r"files: (\S+\.md), \.csv, \.json, \.png", text)
    assert all(Path(file).with_suffix(s).is_file() for file in files for s in (".csv", ".png"))
    assert bool(files) == (check == "C13")  # of worthless numbers there is no table


@pytest.mark.parametrize(
    "flags, words",
    [({}, "no flag doubts it"), ({"C19": "few"}, "the flags above do not unrank it")],
)
def test_a_verdict_does_not_deny_the_flags_above_it(flags, words):
    accuracy = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 20, "seeds": 1}
    row = {"core_worst": accuracy, "flags": flags}
    assert judge.find_verdict(row, []).startswith(f"{words}; of 20 images at most 50.0")


@pytest.mark.parametrize(
    "words, text",
    [
        (("--eps", "8"), "--eps: 8 is no radius of pixels in .0, 1.; did you mean 8/255"),
        (("--expect-clean", "94.5"), "is not between 0 and 1; write 0.945 for 94.5 %"),
        (("--scale", "papers"), "no entry 'papers' .nearest: paper"),
        (("--dataset", "digit"), "no entry 'digit'"),
        (("--arch", "narrow"), "its tensors are those of tiny"),
        (("--names", "trades"), "do not fit this arch: .* names: cifar would fit"),
        (("--part", "ema"), "net.pth: holds no part 'ema' .but one network's tensors.; mend"),
    ],
)
def test_what_is_mistyped_is_said_in_one_line(nets, words, text):
    torch.save(in_their_names(nets, THEIRS["kuangliu"]()), "net.pth")
    with pytest.raises(UserError, match=text) as raised:
        judge.main(["net.pth", "--dataset", "digits", *WORDS, *words])
    tiny.line(raised)


def test_the_pages_own_module_is_judged_as_the_page_types_it(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "judge.md").read_text()
    (code,) = re.findall(r"```python\n# my_file.py\n(.*?)```", page, re.S)
    (command,) = re.findall(r"```\npython -m pipeline judge (net\.pt .*)\n```", page)
    (saving,) = re.findall(r"with `net.pt` of `(torch.save.*)`\.", page)

    tiny.place(tmp_path, monkeypatch, asked())
    Path("my_file.py").write_text(code)
    monkeypatch.syspath_prepend(".")
    exec(saving, {"torch": torch, "my_file": importlib.import_module("my_file")})
    judge.main(shlex.split(command))
    assert "verdict: " in capsys.readouterr().out
    known = judge.parse(["a.pth", "--arch", "resnet18"])
    for option in set(re.findall(r"`[^`]*?--(\w[\w-]*)", page)):
        assert hasattr(known, option.replace("-", "_")), option


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nope.pt", "--arch", "resnet18"], "nope.pt is missing"),
        (["here.pt", "--model", "nope.py:build"], "nope.py is missing"),
        (["here.pt", "--arch", "resnet81"], "--arch: no entry 'resnet81'"),
    ],
)
def test_no_data_set_is_fetched_for_a_file_or_an_arch_that_is_not_there(
    tmp_path, monkeypatch, words, text
):
    writer.write(tmp_path, published())
    monkeypatch.chdir(tmp_path)
    Path("here.pt").write_bytes(b"weights")
    with pytest.raises(UserError, match=text):
        judge.main(words)
    assert not Path("data").exists()


def test_what_a_users_file_imports_beside_it_is_part_of_what_it_is(tmp_path):
    path, beside, deep = tmp_path / "my_net.py", tmp_path / "beside.py", tmp_path / "own/deep.py"
    path.write_text("import torch\n\ndef build():\n    return 3\n")
    assert sum_module(path) == sha256_of(path)
    deep.parent.mkdir()
    path.write_text(OWN)
    beside.write_text("from own import deep\nWIDTH = 3")
    deep.write_text("from . import more")
    seen = {sum_module(path)}
    for file in (beside, deep, deep.with_name("more.py")):
        file.write_text(f"{file.read_text() if file.exists() else ''}\n")
        seen.add(sum_module(path))
    assert len(seen) == 4
    (tmp_path / "nothing.py").write_text("")
    assert sum_module(path) in seen


def test_a_dataclass_of_a_users_file_may_have_annotations_that_are_texts(tmp_path):
    path = tmp_path / "my_net.py"
    code = "from __future__ import annotations\nfrom dataclasses import dataclass\nimport torch\n"
    code += "@dataclass\nclass Size:\n    width: int = 3\n"
    path.write_text(f"{code}def build():\n    return torch.nn.Linear(Size().width, 2)\n")
    spec = outside.describe_module(f"{path}:build", "--model")
    assert modules.build(spec, 1, [0.0], [1.0]).network.in_features == 3


def test_a_users_net_with_float64_scores_is_attacked(tmp_path):
    """Its margins went into a float32 array: torch's own error, from inside an attack."""
    path = tmp_path / "my_net.py"
    code = "import torch\n\nclass Mine(torch.nn.Linear):\n    def forward(self, x):\n"
    code += "        return super().forward(x.flatten(1)).double()\n\n"
    path.write_text(f"{code}def build():\n    torch.manual_seed(0)\n    return Mine(64, 3)\n")
    net = modules.build(outside.describe_module(f"{path}:build", "--model"), 1, [0.0], [1.0])
    images, draws = torch.rand(6, 1, 8, 8, generator=torch.manual_seed(0)), torch.arange(6)
    labels = net(images).argmax(1)
    assert net(images).dtype == torch.float32
    attack = pgd(eps=0.01, step_size=0.01, restarts=2)
    moved = attack(net, images, labels, Draws(0, draws))
    assert moved.dtype == torch.float32 and float((moved - images).abs().amax()) > 0.005


def test_a_workplace_on_scratch_has_the_projects_data(tmp_path, monkeypatch):
    tiny.place(tmp_path / "project", monkeypatch, asked())
    (tmp_path / "far/away/scratch").mkdir(parents=True)
    Path("work").symlink_to(tmp_path / "far/away/scratch")
    task = judging.Task("demo", "digits", Fraction(1), None)
    folder = judging.lay_out(asked(), {}, task)
    assert (folder / "data").resolve() == Path("data").resolve()
    (folder / "data").unlink()
    (folder / "data").symlink_to("nowhere")  # of a project that was moved
    assert (judging.lay_out(asked(), {}, task) / "data/digits").exists()


@pytest.mark.parametrize(
    ("helper", "line"),
    [("layers.py", "import layers"), ("parts/layers.py", "from parts import layers")],
)
def test_two_users_nets_have_each_their_own_helper_and_its_edits_count(tmp_path, helper, line):
    def write(folder: str, width: int) -> None:
        path = tmp_path / folder / helper
        path.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "net.py").write_text(f"{line}\n\nbuild = layers.make\n")
        code = f"import torch\n\ndef make():\n    return torch.nn.Linear(4, {width})\n"
        path.write_text(code)

    def built(folder: str) -> int:
        spec = outside.describe_module(f"{tmp_path / folder / 'net.py'}:build", "--model")
        return modules.build(spec, 1, [0.0], [1.0]).network.out_features

    write("mine", 3)
    write("yours", 5)
    assert [built("mine"), built("yours"), built("mine")] == [3, 5, 3]
    write("mine", 11)
    assert [built("mine"), built("yours")] == [11, 5]


@pytest.mark.parametrize(
    ("wanted", "available", "images"), [(None, 720, 720), (None, 20000, 10000), (50, 720, 50)]
)
def test_a_judgement_is_of_as_many_images_as_there_are(wanted, available, images):
    task = judging.Task("demo", "digits", Fraction(1), wanted)
    entry = {"members": 1, "arch": "resnet20"}
    found = judging.build_params(asked(), task, entry, available)
    assert found["tables"][judging.TABLE]["images"] == images


def test_more_images_than_there_are_are_refused_by_the_flags_name():
    task = judging.Task("demo", "digits", Fraction(1), 721)
    with pytest.raises(UserError, match="^--images: 721 asked for, digits has 720 to test$"):
        judging.build_params(asked(), task, {"members": 1, "arch": "resnet20"}, 720)
