"""Transfer sets and weights from elsewhere on the graph: one command makes the table of both."""

import pytest
import torch
from nets import build
from projects import TARGET, copy_project, jobs, run, tiny_params

from pipeline.archs.resnet20 import ResNet20
from pipeline.store.files import sha256_of

pytestmark = pytest.mark.workflow


def test_one_command_crafts_adopts_and_judges(tmp_path) -> None:
    net = build(ResNet20(blocks=1, width=4, shortcut="conv", leaky=0.0), 8, channels=1)
    torch.save(
        {"net." + name: value for name, value in net.state_dict().items()}, tmp_path / "n.pt"
    )
    found = tiny_params()
    found["victims"]["outside"] = {"of": "standard", "seed": 900, "members": 1}
    found["victims"]["mine"] = {
        **{"of": "file", "file": str(tmp_path / "n.pt"), "sha256": sha256_of(tmp_path / "n.pt")},
        **{"method": "standard", "members": 1, "mean": [0.3], "std": [0.4]},
        "dataset": "digits",
    }
    found["scales"]["demo"]["attacks"] |= {"mpgd": {"steps": 2}, "sgm": {"steps": 2}}
    found["suites"]["transfer"] = {"attacks": ["mpgd", "sgm"], "surrogates": ["outside"]}
    found["suites"]["core"] = {"attacks": ["fgsm"], "stop_when_fooled": True}
    table = found["tables"]["table1"]
    table |= {"rows": ["trades", "mine"], "suites": ["unified", "core", "transfer"]}
    table["columns"] = ["clean", "core_worst", "outside_sgm", "transfer"]
    folder = copy_project(tmp_path / "project", found)
    assert jobs(folder) | {"download": 1, "prepare": 1} == {
        **{"download": 1, "prepare": 1, "train": 2, "adopt": 1},
        **{"transfer": 2, "evaluate": 6, "tabulate": 1},
    }
    run(folder)
    lines = (folder / TARGET).read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["trades", "mine"]
    assert len(list((folder / "results" / "transfer").glob("*.safetensors"))) == 2
    assert jobs(folder) == {}
