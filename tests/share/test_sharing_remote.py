"""Remotes, what DVC shows between commits, and data of two versions."""

import gzip
import hashlib
import os
import re
import subprocess
from pathlib import Path

import pytest
import sharing_lab as lab
import sharing_origin as home
import yaml
from official import serving

from pipeline.plan import load_plan
from pipeline.plan.graph import hidden
from pipeline.plan.params.pages import pages

pytestmark = pytest.mark.sharing
TARGETS = (lab.TABLE, home.PAPER)
SECRETS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture(scope="module")
def bucket():
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    keys = {
        "aws_access_key_id": "testing",
        "aws_secret_access_key": "testing",
        "region_name": "us-east-1",
    }
    boto3.client("s3", endpoint_url=address, **keys).create_bucket(Bucket="members")
    yield address
    server.stop()


def use_bucket(clone, address):
    for command in (
        ("remote", "add", "--force", "--default", "share", "s3://members/dvc"),
        ("remote", "modify", "share", "endpointurl", address),
    ):
        lab.run(clone, "dvc", *command).ok()


def test_an_s3_remote_takes_everything_there_and_back(bucket):
    sender = home.fresh("sender")
    lab.run(sender, "dvc", "pull").ok()
    use_bucket(sender, bucket)
    lab.run(sender, "dvc", "push", env=SECRETS).ok()
    lab.git(sender, "commit", "-qam", "an S3 remote")
    receiver = lab.clone(sender, home.world() / "receiver")
    lab.run(receiver, "dvc", "pull", env=SECRETS).ok()
    assert lab.jobs(receiver, *TARGETS) == {}
    assert "up to date" in lab.run(receiver, "dvc", "status").ok()
    text = "".join(p.read_text() for p in (receiver / ".dvc").glob("config*"))
    assert "testing" not in text


def test_no_log_result_or_copy_of_the_plan_holds_a_secret():
    clone, secret = home.fresh("secrets"), "-".join(("sesame", "shut"))  # in no file of the tests
    with serving() as server:
        address = server.url.replace("://", f"://bot:{secret}@")
        env = {"ROBUST_MIRROR": f"{address}/raw?token={secret}", "no_proxy": "127.0.0.1"}
        env |= dict.fromkeys(("AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "DVC_TOKEN"), secret)
        lab.run(clone, "dvc", "remote", "add", "--force", "share", f"{address}/pool").ok()

        (clone / "results/table1.csv").unlink()
        said = [lab.run(clone, "plan", "results/table1.csv", "--pull", env=env).fails()]
        assert "dvc pull" in said[0] and len(said[0].splitlines()) == 1, said[0]
        said.append(lab.run(clone, "plan", "results/table1.csv", env=env).ok())
        lab.edit(clone, lambda p: p["datasets"]["digits"].update(sha256=["0" * 64]))
        said.append(lab.run(clone, "download", "mnist", env=env).fails())
        assert f"{server.url}/raw" in said[-1]  # the mirror was asked
        said.append(lab.run(clone, "prepare", "digits", env=env).fails())
        said.append(lab.run(clone, "record", env=env).fails())  # the listing is not to be had
        goals = ("-c1", "data/raw/digits/verified.json")
        said.append(lab.run(clone, "snakemake", *goals, env=env).fails())
        said.append(lab.run(clone, "status", env=env).ok())

    files = [
        p for p in clone.rglob("*") if p.is_file() and p.name not in ("config", "config.local")
    ]
    assert any("logs/download" in str(p) for p in files)
    holders = [p for p in files if secret.encode() in p.read_bytes()]
    assert not holders and secret not in "".join(said), (holders, said)


def test_metrics_params_and_plots_of_two_commits_are_told_apart():
    clone = home.fresh("compared")
    lab.run(clone, "dvc", "pull").ok()
    lab.edit(clone, lambda p: p["scales"]["demo"]["attacks"]["pgd10"].update(steps=3))
    home.build(clone)
    lab.run(clone, "record").ok()
    lab.git(clone, "commit", "-qam", "more steps")
    params = lab.run(clone, "dvc", "params", "diff", "HEAD~1", "HEAD").ok()
    assert "scales.demo.attacks.pgd10.steps" in params
    metrics = lab.run(clone, "dvc", "metrics", "diff", "--all", "HEAD~1", "HEAD").ok()
    assert "results/metrics/table1/pgd_at.json" in metrics and "pgd10" in metrics
    assert "seconds" not in metrics
    shown = lab.run(clone, "dvc", "metrics", "show", "results/metrics/table1").ok().splitlines()
    head, *lines = [line.split() for line in shown if line.strip()]
    rows = sorted((clone / "results/metrics/table1").iterdir())
    assert head[0] == "Path" and [Path(line[0]).name for line in lines] == [p.name for p in rows]
    assert all(len(line) == len(head) for line in lines)
    folder = home.world() / "plots"
    lab.run(clone, "dvc", "plots", "diff", "HEAD~1", "HEAD", "-o", str(folder)).ok()
    page = (folder / "index.html").read_text()
    assert "table1" in page
    assert "http" not in page and "<script" not in page  # opens without the internet
    assert len(list((folder / "static").glob("*.png"))) >= 2


def test_a_paper_hears_of_its_own_page_and_of_no_other():
    clone = lab.clone(home.copied("pages", lambda folder: None), home.world() / "hears")
    names = ("aute", "soe")
    for name in names:
        (clone / "results" / name / "metrics").mkdir(parents=True)
    stages = [f"paper@{name}" for name in names]
    lab.run(clone, "dvc", "commit", "--force", *stages).ok()
    page = clone / "papers/soe.yaml"
    page.write_text(page.read_text().replace("SoE Table 2, three", "SoE Table 2, several", 1))
    said = lab.run(clone, "dvc", "status", *stages).ok()
    assert "paper@soe" in said and "papers/soe.yaml" in said and "paper@aute" not in said
    assert len((clone / "dvc.lock").read_text().splitlines()) < 100  # sums, no copies of values
    params = lab.run(clone, "dvc", "params", "diff").ok()
    assert re.search(r"papers/soe\.yaml +tables\.soe_table2\.title", params), params
    shared = clone / "params.yaml"
    shared.write_text(shared.read_text().replace("mim50: {steps: 10}", "mim50: {steps: 12}", 1))
    said = lab.run(clone, "dvc", "status", *stages).ok()
    assert "paper@aute" in said and "paper@soe" in said


def test_another_split_is_another_data_set_and_the_old_results_come_back():
    clone = home.fresh("versions")
    lab.run(clone, "dvc", "pull").ok()
    before = load_plan(clone / "params.yaml")
    lab.edit(clone, lambda p: p["datasets"]["digits"].update(split_seed=1))
    after = load_plan(clone / "params.yaml")
    assert not set(before.graph.runs) & set(after.graph.runs)
    assert not set(before.graph.records) & set(after.graph.records)
    wanted = lab.jobs(clone, *TARGETS)
    assert wanted["prepare"] == 1 and wanted["train"] == 2 and "download" not in wanted
    lab.run(clone, "prepare", "digits").ok()
    lab.run(clone, "record").ok()
    lab.git(clone, "commit", "-qam", "another split")
    assert len(list((clone / "data/digits").iterdir())) == 2
    lab.git(clone, "checkout", "-q", "HEAD~1")
    lab.run(clone, "dvc", "checkout").ok()
    assert lab.jobs(clone, *TARGETS) == {}
    assert "up to date" in lab.run(clone, "dvc", "status").ok()
    assert [p.name for p in (clone / "data/digits").iterdir()] == [before.dataset("digits").digest]


def correct(clone):
    """One label of the raw digits is another; its sum in params.yaml as well."""
    path = clone / "data/raw/digits/digits.csv.gz"
    rows = gzip.decompress(path.read_bytes()).decode().split("\n")
    pixels, _, label = rows[0].rpartition(",")
    rows[0] = f"{pixels},{(int(float(label)) + 1) % 10}"
    path.unlink()
    path.write_bytes(gzip.compress("\n".join(rows).encode(), mtime=0))
    sums = [hashlib.sha256(path.read_bytes()).hexdigest()]
    lab.edit(clone, lambda p: p["datasets"]["digits"].update(sha256=sums))


def test_a_corrected_label_file_is_other_data_and_the_old_results_come_back():
    clone = home.fresh("corrected", link="symlink")
    lab.run(clone, "dvc", "pull").ok()
    official = (clone / "data/raw/digits/digits.csv.gz").read_bytes()
    before = load_plan(clone / "params.yaml")
    correct(clone)
    after = load_plan(clone / "params.yaml")
    assert not set(before.graph.runs) & set(after.graph.runs)
    refusal = lab.run(clone, "prepare", "digits").fails()
    assert "data/raw/digits" in refusal and "run python -m pipeline.download digits" in refusal
    lab.run(clone, "download", "digits").ok()
    lab.run(clone, "prepare", "digits").ok()
    lab.run(clone, "record").ok()
    lab.git(clone, "commit", "-qam", "a corrected label")
    lab.run(clone, "dvc", "push").ok()
    assert len(list((clone / "data/digits").iterdir())) == 2

    lab.git(clone, "checkout", "-q", "HEAD~1")
    lab.run(clone, "dvc", "checkout").ok()
    assert (clone / "data/raw/digits/digits.csv.gz").read_bytes() == official
    assert lab.jobs(clone, *TARGETS) == {}
    assert "up to date" in lab.run(clone, "dvc", "status").ok()
    lab.git(clone, "checkout", "-q", "main")
    # without `dvc checkout` the old file lies there: it is no correction of the correction
    refusal = lab.run(clone, "record").fails()
    assert "data/raw/digits: another content was recorded first" in refusal
    lab.run(clone, "dvc", "checkout").ok()
    lab.run(clone, "record").ok()
    assert "nothing to do" in lab.run(clone, "prepare", "digits").ok()


def test_raw_files_that_params_does_not_name_are_not_prepared():
    clone = home.fresh("unnamed")
    lab.run(clone, "dvc", "pull", "data/raw").ok()
    lab.edit(clone, lambda p: p["datasets"]["digits"].update(sha256=["0" * 64]))
    refusal = lab.run(clone, "prepare", "digits").fails()
    assert "data/raw/digits/verified.json: is of other files than" in refusal


def test_stages_name_every_table_and_figure_of_params():
    stages = yaml.safe_load((lab.ROOT / "dvc.yaml").read_text())
    plan = load_plan(lab.ROOT / "params.yaml")
    papers = stages["stages"]["paper"]["foreach"]
    folders = {t.path.parent.name for t in plan.targets.values()} - {"results"}
    assert set(papers) == folders == {page.stem for page in pages(lab.ROOT / "params.yaml")}
    beyond = {t.path.stem for t in plan.tables.values() if t.path.parent.name == "results"}
    made = {"table1", *stages["stages"]["beyond"]["foreach"]}
    assert made == {name for name in beyond if not name.endswith("_all")}
    pictures = {f.path.stem for f in plan.figures.values() if f.path.parent.name == "results"}
    assert set(stages["stages"]["picture"]["foreach"]) == pictures
    shown = {p for p in stages["plots"]}
    assert {str(Path(p)) for p in stages["params"]} == {
        "params.yaml",
        *(str(p.relative_to(lab.ROOT)) for p in pages(lab.ROOT / "params.yaml")),
    }
    figures = {str(t.path.with_suffix(".png")) for t in plan.targets.values()}
    assert shown == {f for f in figures if not f.endswith("_all.png")}


def test_every_stage_that_makes_tables_hears_of_the_cuts_and_of_what_papers_report():
    stages = yaml.safe_load((lab.ROOT / "dvc.yaml").read_text())["stages"]
    rests = {name: set((stage.get("do") or stage)["deps"]) for name, stage in stages.items()}
    assert {"unified", "paper", "beyond", "picture"} == set(rests)
    read = {str(hidden.FILE), "data/reported", "params.yaml", "pipeline"}
    assert {name: read - deps for name, deps in rests.items() if read - deps} == {}


def test_every_pool_and_nothing_that_belongs_in_git_is_ignored():
    ignored = ["results/runs/x/run.json", "results/records/x/y.npz", "results/snapshots/x/1"]
    ignored += ["results/transfer/x.npz", "data/digits/0/x", "data/raw/digits/x"]
    kept = ["results/runs.dvc", "results/manifest.jsonl", "results/table1.csv", "data/digits.dvc"]
    kept += ["results/aute/table2.md", "results/aute/metrics/table2/aute.json", "dvc.lock"]
    command = ["git", "check-ignore", "--no-index", *ignored, *kept]
    found = subprocess.run(command, cwd=lab.ROOT, capture_output=True, text=True).stdout.split()
    assert found == ignored


@pytest.mark.skipif("SHIPS_NOTHING" not in os.environ, reason="a user's clone commits results")
def test_this_repository_ships_no_results():
    names = lab.git(lab.ROOT, "ls-files", "results", "data", "dvc.lock").text.split()
    ours = ("data/reported/", "data/claims/", "data/cuts.csv")  # what the cuts of the demo hide
    assert [n for n in names if not n.startswith(ours)] == ["results/.gitkeep"]
