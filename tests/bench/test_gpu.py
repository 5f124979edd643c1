"""The ten minutes on a GPU, in seconds on a CPU: every part of it runs and leaves its line."""

import json
import os
import subprocess
import sys

from projects import ROOT


def test_gpu_bench_runs_tiny_on_a_cpu_and_leaves_json(tmp_path):
    environment = {**os.environ, "PYTHON": sys.executable}
    command = ["bash", "bench/gpu.sh", "--tiny", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert "random images" in found["data"] and "random images" in done.stdout
    lines = {line["what"]: line for line in found["lines"]}
    assert not [line for line in found["lines"] if "failed" in line]
    for what in ("pgd_at resnet18 x1 fp32", "pgd_at wrn34_10 x1 fp32", "red resnet18 x3 bf16"):
        assert lines[what]["ms"] > 0 and lines[what]["epoch_s"] > 0
    assert lines["resumed to the byte fp32 none"]["equal"]
    assert lines["2 runs on one device resnet20"]["gain"] > 0
    assert lines["autoattack of 4"]["robust"] <= lines["autoattack of 4"]["clean"] <= 4
    for row in ("standard", "pgd_at"):
        assert 0 <= lines[f"row {row} x1"]["worst"] <= lines[f"row {row} x1"]["clean"]
