"""The guard: averages, transfer sets and data count as runs and records do."""

import pytest
import sharing_lab as lab
import sharing_origin as home
from test_sharing_record import cached_file, flip

from pipeline.plan import load_plan

pytestmark = pytest.mark.sharing
SNAKEMAKE = ("snakemake", "-q", "rules", "-c1")


def more_steps(params):
    params["scales"]["demo"]["attacks"]["pgd10"]["steps"] = 5


def transferred(params):
    """Images crafted on the standard row are judged on the adversarially trained one."""
    params["victims"]["apart"] = {"of": "standard", "members": 1, "seed": 7}
    params["suites"]["moved"] = {"attacks": ["pgd10"], "surrogates": ["apart"]}
    table = params["tables"]["table1"]
    table["rows"], table["suites"] = ["standard", "pgd_at"], ["unified", "moved"]


def average_too(params):
    params["tables"]["table1"]["rows"].append("wa")


@pytest.fixture(scope="module")
def sets():
    """A clone with a recorded transfer set and a record that judges it, pushed."""
    clone = home.fresh("sets")
    lab.run(clone, "dvc", "pull").ok()
    lab.edit(clone, transferred)
    home.build(clone)
    lab.run(clone, "record").ok()
    lab.git(clone, "commit", "-qam", "a transfer set")
    lab.run(clone, "dvc", "push").ok()
    return clone


def test_every_artifact_says_what_it_took_and_where(sets):
    for name, line in home.manifest(sets).items():
        if not name.startswith("data/raw/"):
            assert line.host.startswith("cpu ") and line.versions["torch"], name
            assert line.seconds >= 0 and line.bytes > 0, name
    costly = [n.seconds for p, n in home.manifest(sets).items() if p.startswith("results/")]
    assert sum(s > 0 for s in costly) > len(costly) / 2  # a tenth of a second is the least


def test_a_recorded_transfer_set_is_pulled_and_not_crafted_again(sets):
    clone = lab.clone(sets, home.world() / "sets-clone", link="symlink")
    plan = load_plan(clone / "params.yaml")
    (made,) = {id for r in plan.graph.records.values() for id in r.sets}
    path = f"results/transfer/{made}.safetensors"
    rests_on = home.manifest(clone)[path].rests_on
    surrogate = [str(plan.run(e.run).folder) for e in plan.set(made).surrogate.elements]
    assert list(rests_on) == surrogate
    judged = [r for r in plan.graph.records.values() if r.sets]
    for record in judged:
        behind = home.manifest(clone)[str(record.path)].rests_on
        assert behind[path] in home.manifest(clone)[path].sha256.values()
    assert judged
    assert lab.jobs(clone) == {}
    lab.edit(clone, average_too)  # judged on the same images
    refusal = lab.run(clone, *SNAKEMAKE, lab.TABLE).fails()
    again = "1 data set, 3 trainings, 1 average, 1 transfer set, 5 evaluations"
    assert f"{again} would be made again" in refusal and path in refusal
    lab.run(clone, "plan", lab.TABLE, "--pull").ok()
    assert (clone / path).exists()
    assert lab.jobs(clone) == {"evaluate": 1, "tabulate": 1}
    flip(cached_file(clone, clone / path), -1)
    record = next(
        r
        for r in load_plan(clone / "params.yaml").graph.records.values()
        if r.sets and r.victim.entry == "wa"
    )
    said = lab.run(clone, "evaluate", record.id).fails()
    assert f"{path}: its sha256 is not the one" in said


def test_a_transfer_set_that_no_table_needs_is_listed(sets):
    assert "results/transfer/" not in lab.run(sets, "plan", "--unused").ok()
    old = lab.edit(sets, lambda p: p["tables"]["table1"].update(suites=["unified"]))
    listed = lab.run(sets, "plan", "--unused").ok()
    (sets / "params.yaml").write_text(old)
    assert "recorded   results/transfer/" in listed
    assert list((sets / "results/transfer").glob("*.safetensors"))  # listing removes nothing


def test_an_average_costs_its_trajectory_too():
    clone = home.fresh("trajectory")
    plan = load_plan(clone / "params.yaml")
    (source,) = [r for r in plan.graph.runs.values() if r.entry == "pgd_at"]
    (average,) = [r for r in plan.graph.runs.values() if r.entry == "wa"]
    lab.edit(clone, more_steps)
    lab.run(clone, "dvc", "pull", "data/digits", str(source.folder)).ok()
    refusal = lab.run(clone, *SNAKEMAKE, lab.TABLE).fails()
    line = home.manifest(clone)[str(source.folder)]
    assert f"snapshots of {source.folder} ({line.seconds:.1f} s on {line.host})" in refusal
    assert f"  {average.folder} (" in refusal
    assert "  snapshots of" in lab.run(clone, "plan", lab.TABLE).ok()


def test_data_alone_are_named_and_prepared_again():
    clone = home.fresh("new-row")
    lab.edit(clone, lambda p: p["tables"]["table1"].update(rows=["standard", "trades"]))
    lab.run(clone, "dvc", "pull", "results/runs", "results/records").ok()
    made = ("download", "prepare", "train", "evaluate", "tabulate")
    assert lab.jobs(clone) == dict.fromkeys(made, 1)  # what is there already, not once more
    said = lab.run(clone, "plan", lab.TABLE).ok()
    assert "1 data set would be made again" in said and "dvc pull data/digits/" in said
    data = str(load_plan(clone / "params.yaml").dataset("digits").folder / "test.safetensors")
    assert "1 data set would be made again" in lab.run(clone, *SNAKEMAKE, data).ok()
    assert lab.jobs(clone) == {"train": 1, "evaluate": 1, "tabulate": 1}


def test_forced_jobs_are_refused_though_everything_is_here():
    clone = home.fresh("forced")
    lab.run(clone, "dvc", "pull").ok()
    weights = sorted(clone.glob("results/runs/*/weights.safetensors"))
    before = [p.read_bytes() for p in weights]
    refusal = lab.run(clone, *SNAKEMAKE, "-F", lab.TABLE).fails()
    assert "2 trainings, 1 average, 3 evaluations" in refusal and "they are here" in refusal
    assert [p.read_bytes() for p in weights] == before


def test_a_run_with_a_hole_is_pulled_and_not_trained_again():
    clone = home.fresh("hole")
    lab.run(clone, "dvc", "pull").ok()
    run = next((clone / "results/runs").glob("*-standard-*"))
    (run / "best.safetensors").unlink()
    asked = f"results/runs/{run.name}/best.safetensors"
    refusal = lab.run(clone, *SNAKEMAKE, asked).fails()
    assert "1 training would be made again" in refusal
    assert f"  dvc pull results/runs/{run.name}\n" in refusal
    lab.run(clone, "dvc", "pull", f"results/runs/{run.name}").ok()
    assert lab.jobs(clone, asked) == {}
