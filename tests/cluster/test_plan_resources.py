"""What jobs ask of a cluster: GPUs by the site's syntax, packs of small nets, time and memory."""

from collections import Counter
from types import SimpleNamespace

import pytest
from projects import published
from snakemake.iocontainers import Wildcards

from pipeline.cluster import site
from pipeline.cluster.cluster import report
from pipeline.cluster.resources import PACK, Resources, pack_environment
from pipeline.cluster.site import Site
from pipeline.errors import UserError
from pipeline.plan import Plan, Snapshots
from pipeline.plan.estimate import archs_of, seconds
from pipeline.plan.graph.outside import MODULE
from pipeline.plan.memory import run_bytes
from pipeline.plan.params.entries import Entries
from pipeline.plan.state import NEED, states

PARAMS = published() | {"scale": "paper"}


@pytest.fixture(scope="module")
def plan():
    return Plan(PARAMS)


def changed(**entries):
    """The plan with other values of single archs."""
    archs = {name: {**entry, **entries.get(name, {})} for name, entry in PARAMS["archs"].items()}
    return Plan(PARAMS | {"archs": archs})


def runs(plan, arch):
    return [run for run in plan.graph.runs.values() if run.arch == arch and run.stage == "train"]


def asked(resources, stage, run):
    """The values of a rule's resources, as Snakemake asks for them."""
    wildcards, found = Wildcards(fromdict={"run": run.id}), resources.of(stage)
    return {k: v(wildcards) if callable(v) else v for k, v in found.items()}


@pytest.mark.parametrize(
    ("syntax", "single", "packed"),
    [
        ("gpu", {"gpu": 1}, {"gres": "gpu:1"}),
        ("gpu:a100", {"gpu": 1, "gpu_model": "a100"}, {"gres": "gpu:a100:1"}),
        ("gres", {"gres": "gpu:1"}, {"gres": "gpu:1"}),
        ("gres:a100", {"gres": "gpu:a100:1"}, {"gres": "gpu:a100:1"}),
    ],
)
def test_gpus_are_asked_for_as_the_site_says(plan, syntax, single, packed):
    keys = {"gpu", "gpu_model", "gres"}
    for stage, expected in (("evaluate", single), ("train", packed)):
        found = Resources(plan, Site(syntax)).of(stage)
        assert {k: found[k] for k in keys & set(found)} == expected


def test_without_packs_training_follows_the_syntax_too():
    alone = {name: {"runs_per_gpu": 1} for name in PARAMS["archs"]}
    resources = Resources(changed(**alone), Site("gpu:a100"))
    assert resources.of("train")["gpu"] == 1 and "gres" not in resources.of("train")
    assert not resources.is_packed


def test_an_unknown_syntax_is_refused(plan):
    with pytest.raises(UserError, match="slurm/config.yaml: gpu_syntax: 'gpus' is not one of"):
        Resources(plan, Site("gpus"))


def test_the_syntax_comes_from_the_profile():
    assert site.of_profile({"gpu_syntax": SimpleNamespace(raw="gres")}, False) == Site("gres")
    assert site.of_profile({"gpu_syntax": "gpu:a100"}, False) == Site("gpu:a100")
    assert site.of_profile(None, True) == Site() and site.of_profile({"mem_mb": 1}, True) == Site()
    assert site.of_profile(["gpu_syntax=gres", "slurm_partition=gpu"], False) == Site("gres")


def test_a_folders_own_profile_is_read_and_none_needs_to_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert site.here() == Site()
    site.PROFILE.parent.mkdir()
    site.PROFILE.write_text("default-resources:\n  gpu_syntax: gres\n")
    assert site.here().syntax == "gres"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jobs: 1\n executor: slurm\n", "slurm/config.yaml:2: not valid YAML: mapping values"),
        ("default-resources:\n- gpu\n", "slurm/config.yaml: default-resources: 'gpu' is neither"),
        ("default-resources: 5\n", "slurm/config.yaml: default-resources: 5 is neither"),
    ],
)
def test_a_profile_that_cannot_be_read_is_one_line(tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    site.PROFILE.parent.mkdir()
    site.PROFILE.write_text(text)
    with pytest.raises(UserError, match=f"^{said}"):
        site.here()


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("infinite", None),
        ("30", 30),
        ("30:00", 30),
        ("2:30:00", 150),
        ("1-00:00:00", 1440),
        ("7-12", 7 * 1440 + 720),
        ("1-06:30", 1440 + 390),
    ],
)
def test_a_limit_is_read_as_slurm_writes_it(text, minutes):
    assert site.to_minutes(text) == minutes


def test_a_partitions_limit_is_asked_of_slurm(tmp_path, monkeypatch):
    (tmp_path / "sinfo").write_text("#!/bin/sh\necho 'gpu|2:00:00'; echo 'cpu*|1-00:00:00'\n")
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    defaults = {"gpu_syntax": "gpu"}
    assert site.of_profile(defaults | {"slurm_partition": "gpu"}, True).limit == 120
    assert site.of_profile(defaults, True).limit == 1440
    assert site.of_profile(defaults, False).limit is None
    monkeypatch.setenv("SBATCH_PARTITION", "other")
    assert site.of_profile(defaults, True).limit is None


def test_a_site_in_the_environment_comes_first(plan, monkeypatch):
    monkeypatch.setenv("SBATCH_ACCOUNT", "ours")
    monkeypatch.setenv("SBATCH_PARTITION", "")
    found = Resources(plan).of("train")
    assert found["slurm_account"] == "ours" and "slurm_partition" not in found


def test_only_a_kill_for_memory_asks_for_more_memory(plan):
    resources, run, other = Resources(plan), *runs(plan, "resnet20")[:2]
    first = asked(resources, "train", run)
    resources.kills[f"a, {run.id}"] += 1  # as one of a pack
    assert asked(resources, "train", run) == first | {"mem_mb": 2 * first["mem_mb"]}
    assert asked(resources, "train", other)["mem_mb"] == first["mem_mb"]


def test_a_job_that_ran_out_of_time_with_nothing_saved_asks_for_more(plan):
    record = next(r for r in plan.graph.records.values() if "adaptive" in r.id)
    resources = Resources(plan)
    victim, suite = record.id.split("/")
    wildcards = Wildcards(fromdict={"victim": victim, "suite": suite})
    asks = resources.of("evaluate")["runtime"]
    first = asks(wildcards)
    resources.overruns[record.id] += 1
    most = PARAMS["resources"]["evaluate"]["most_minutes"]
    assert asks(wildcards) == min(2 * resources.minutes("evaluate", record), most) > first


def test_what_nobody_can_estimate_is_given_all_the_time_and_shares_with_nobody():
    unknown = changed(resnet20={"macs": None})
    run = next(r for r in runs(unknown, "resnet20") if archs_of(unknown, r) == {"resnet20"})
    assert seconds(unknown, [run]) is None
    most = PARAMS["resources"]["train"]["most_minutes"]
    assert asked(Resources(unknown), "train", run)["runtime"] == most
    assert asked(Resources(unknown, Site(limit=60)), "train", run)["runtime"] == 60
    assert Resources(unknown).runs_per_gpu(run) > 1 == Resources(unknown).group(run)[1]
    assert Resources(unknown)._find_room(MODULE) == 1  # a parent that is a user's own network


def test_a_stage_that_is_missing_is_one_line(plan):
    short = {k: v for k, v in PARAMS["resources"].items() if k != "figure"}
    with pytest.raises(UserError, match="resources.figure: is missing; needs"):
        Resources(Plan(PARAMS | {"resources": short}))


def test_what_is_never_packed_is_given_its_own_time_alone():
    few, many = changed(resnet20={"runs_per_gpu": 1}), changed(resnet20={"runs_per_gpu": 5})
    average = next(r for r in many.graph.runs.values() if r.stage == "average")
    snapshots = next(
        part
        for run in many.graph.runs.values()
        for part in run.inputs(many.graph)
        if isinstance(part, Snapshots)
    )
    for stage, artifact in (("average", average), ("train", snapshots)):
        assert len({Resources(p).minutes(stage, artifact) for p in (few, many)}) == 1
    wildcards = Wildcards(fromdict={"run": snapshots.run.id, "epoch": str(snapshots.first)})
    found = Resources(many).of("trajectory")["runtime"](wildcards)
    assert found == Resources(many).slice("train", snapshots)


def test_a_job_asks_for_a_slice_of_what_it_needs(plan):
    (run,) = [max(runs(plan, "wrn34_10"), key=lambda r: Resources(plan).minutes("train", r))]
    most = PARAMS["resources"]["train"]["most_minutes"]
    assert Resources(plan).minutes("train", run) > most
    assert asked(Resources(plan), "train", run)["runtime"] == most
    assert asked(Resources(plan, Site(limit=60)), "train", run)["runtime"] == 60
    assert asked(Resources(plan, Site(limit=most + 1)), "train", run)["runtime"] == most
    stages = PARAMS["resources"]
    stages = stages | {"train": stages["train"] | {"most_minutes": 10**7}}
    generous = Resources(Plan(PARAMS | {"resources": stages}))
    assert asked(generous, "train", run)["runtime"] == generous.minutes("train", run)


def test_small_nets_share_a_gpu_and_are_given_the_time_for_it():
    few, many = changed(resnet20={"runs_per_gpu": 1}), changed(resnet20={"runs_per_gpu": 5})
    small = next(r for r in runs(many, "resnet20") if Resources(many).runs_per_gpu(r) == 5)
    large = runs(many, "resnet18")[0]
    wildcards = SimpleNamespace(run=small.id)
    settings = SimpleNamespace(group_components={"other": 2})
    assert Resources(few).pack(wildcards, settings) is None
    name = Resources(many).pack(wildcards, settings)
    assert settings.group_components == {name: 5, "other": 2}
    settings.group_components[name] = 3  # a user's own
    assert Resources(many).pack(wildcards, settings) == name
    assert settings.group_components[name] == 3
    assert Resources(many).pack(SimpleNamespace(run=large.id), settings) is None
    start = PARAMS["resources"]["train"]["minutes"]
    alone, shared = (Resources(p).minutes("train", small) - start for p in (few, many))
    assert 5 * (alone - 1) < shared <= 5 * alone
    assert Resources(few).minutes("train", large) == Resources(many).minutes("train", large)


def test_a_small_student_of_large_teachers_has_a_gpu_of_its_own(plan):
    student = next(r for r in runs(plan, "resnet20") if r.entry == "at_aka_own")
    assert "wrn34_10" in archs_of(plan, student)
    assert Resources(plan).runs_per_gpu(student) == 1
    children = [r for r in runs(plan, "resnet20") if r.parents]
    for child in children:
        assert {plan.run(parent).arch for parent in child.parents} <= archs_of(plan, child)


def test_only_runs_of_like_length_share_a_gpu(plan):
    resources, groups = Resources(plan), {}
    for run in plan.graph.runs.values():
        if run.stage == "train" and resources.runs_per_gpu(run) > 1:
            name, _ = resources.group(run)
            groups.setdefault(name, []).append(seconds(plan, [run]))
    assert len(groups) > 2
    assert all(max(lengths) < 2 * min(lengths) + 2 for lengths in groups.values())


def test_nothing_is_packed_where_there_is_no_gpu():
    resources = Resources(Plan(published() | {"scale": "demo"}))
    assert not resources.is_packed and not {"gpu", "gres"} & set(resources.of("train"))


def test_an_arch_without_an_entry_is_packed_as_the_one_it_is_based_on():
    params = {**PARAMS, "archs": {**PARAMS["archs"], "thin": {"base": "resnet20", "width": 16}}}
    params["tables"] = {"table1": {**PARAMS["tables"]["table1"], "archs": ["thin"]}}
    params["figures"] = {}
    plan = Plan(params)
    alone = [run for run in runs(plan, "thin") if archs_of(plan, run) == {"thin"}]
    (count,) = {Resources(plan).runs_per_gpu(run) for run in alone}
    assert count == PARAMS["archs"]["resnet20"]["runs_per_gpu"]


def test_members_of_a_pack_know_of_each_other():
    words = ["-m", "snakemake", "--target-jobs", "train:run=b", "train:run=a", "--cores", "2"]
    assert pack_environment(words) == {PACK: "a b"}
    assert pack_environment(words[:4]) == {} and pack_environment(["average:run=a"] * 2) == {}


def test_the_report_counts_slurm_jobs(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [s for s in states(plan, [plan.tables["table1"]]) if s.status == NEED]
    rows = {row[0]: row for row in report(plan, found)[1:]}
    trained = [plan.run(s.id) for s in found if s.stage == "train"]
    size = PARAMS["archs"]["resnet20"]["runs_per_gpu"]
    groups = Counter(map(Resources(plan).group, trained))
    jobs = sum(-(-count // size) for (_, size), count in groups.items())
    assert max(size for _, size in groups) == size
    held = max(run_bytes(plan, run) for run in trained) * size / 1e9
    assert rows["train"][1:4] == [f"{jobs} ({len(trained)} runs)", "1", f"about {held:.1f} GB"]
    assert rows["train"][4] == f"{16000 * size} MB"
    judged = [s for s in found if s.stage == "evaluate"]
    assert rows["evaluate"][1:3] + rows["evaluate"][4:5] == [str(len(judged)), "1", "8000 MB"]


def test_numbers_of_a_stage_that_params_does_not_state_are_the_usual_ones():
    bare = Entries({key: value for key, value in PARAMS.items() if key != "resources"})
    assert bare.resource("evaluate", "batch") == 300
    stated = {**PARAMS["resources"]["evaluate"], "batch": 77}
    entries = Entries(PARAMS | {"resources": {"evaluate": stated}})
    assert entries.resource("evaluate", "batch") == 77
    assert entries.resource("train", "save_minutes") == 10
