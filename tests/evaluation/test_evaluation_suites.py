"""Suites that leave, sweeps, transfer sets, weights from elsewhere: from params to verdicts."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml
from projects import published

from pipeline import adopt, evaluate, transfer
from pipeline.core import metrics
from pipeline.errors import UserError
from pipeline.evaluation.verdicts import Evaluation
from pipeline.loading import models, sets
from pipeline.loading.images import load_split
from pipeline.plan import Plan, Record
from pipeline.plan.params.entries import Setting
from pipeline.share import writer
from pipeline.store.files import load_safetensors, sha256_of
from pipeline.store.records import Arrays, meta, read_arrays
from pipeline.tools import export, lint
from pipeline.tools.transferability import matrix

CORE = ["pgd10", "apgd_ce", "members_margin_pgd"]
SETS = ["mpgd", "m_di2", "sgm"]
FEW = {"pgd10": 4, "apgd_ce": 4, "members_margin_pgd": 3, "pgd20": 3, **dict.fromkeys(SETS, 3)}


def asked() -> dict:
    found = tiny.params(epochs=2)
    found["victims"] |= {
        "moody": {"of": "standard", "combine": "random_one"},
        "other": {"of": "standard", "members": 2, "seed": 90},
        "itself": {"of": "standard", "members": 2, "seed": 0},
        "sibling": {"of": "same", "seed": 91},
    }
    found["suites"] |= {
        "plain": {"attacks": list(CORE)},
        "core": {"attacks": list(CORE), "stop_when_fooled": True},
        "more": {"attacks": ["fgsm", *CORE[::-1]], "stop_when_fooled": True, "after": "core"},
        "sweep": {"attacks": ["pgd20"], "eps": [0, "8/255", 1]},
        "transfer": {"attacks": list(SETS), "surrogates": ["other"]},
        "siblings": {"attacks": ["mpgd"], "surrogates": ["sibling"]},
        "circular": {"attacks": ["mpgd"], "surrogates": ["itself"]},
    }
    found["scales"]["demo"]["attacks"] |= {name: {"steps": n} for name, n in FEW.items()}
    return found


@pytest.fixture
def here(tmp_path, monkeypatch) -> Plan:
    return tiny.place(tmp_path, monkeypatch, asked())


SETTING = Setting("cifar10", "resnet20", "unified", 2, 0)


def record_of(plan: Plan, row: str, suite: str) -> Record:
    tiny.trained(plan, row, 2)
    return plan.name_record(plan.name_victim(row, SETTING), suite, SETTING, 30)


def made(plan: Plan, row: str, suite: str) -> Arrays:
    record = record_of(plan, row, suite)
    if record.before:
        made(plan, row, plan.record(record.before).suite)
    for id in record.sets:
        source = plan.set(id)
        for element in source.surrogate.elements:
            run = plan.run(element.run)
            if not (run.folder / "weights.safetensors").exists():
                tiny.train.train(plan, run, tiny.CPU, None)
        if not source.path.exists():
            transfer.craft(plan, source, tiny.CPU)
    if not record.path.exists():
        evaluate.evaluate(plan, record, tiny.CPU)
    return read_arrays(record.path)


def worst(arrays: Arrays, names: list[str]) -> np.ndarray:
    return metrics.worst([arrays[f"{name}/right"] for name in names])


# ---- leaving


def test_a_suite_that_leaves_has_the_same_worst_case_for_less_work(here) -> None:
    whole, left = made(here, "standard", "plain"), made(here, "standard", "core")
    assert np.array_equal(worst(whole, CORE), worst(left, CORE))
    assert 0 < worst(left, CORE).sum() < left["clean/right"].sum()
    work = [sum(a[f"{name}/work"][1] for name in CORE) for a in (whole, left)]
    assert work[1] < work[0]
    for before, after in zip(CORE, CORE[1:], strict=False):
        fooled = left[f"{before}/right"] == 0
        assert not left[f"{after}/asked"][fooled].any()
        assert not left[f"{after}/right"][fooled].any()
    assert np.array_equal(whole["apgd_ce/asked"], whole["clean/right"] > 0)


@pytest.mark.parametrize("row", ["standard", "moody"])
def test_a_suite_after_another_asks_only_whom_that_one_left_right(here, row) -> None:
    before, after = made(here, row, "core"), made(here, row, "more")
    record = record_of(here, row, "more")
    assert here.record(record.before).suite == "core"
    assert here.record(record.before) in record.inputs(here.graph)
    left = worst(before, CORE) > 0
    assert left.sum() < len(left) and (left.any() or row == "moody")
    assert np.array_equal(after["fgsm/asked"], left)
    assert not after["fgsm/right"][~left].any()
    assert meta(after)["before"] == {record.before: sha256_of(here.record(record.before).path)}


def test_what_a_suite_goes_on_from_must_leave_and_begin_by_itself(here) -> None:
    for changed, text in (
        ({"core": {"attacks": ["pgd10"]}}, "stop_when_fooled"),
        ({"more": {"attacks": ["pgd10"], "after": "core"}}, "stop_when_fooled"),
        ({"more": {"attacks": ["pgd10"], "stop_when_fooled": True, "after": "nowhere"}}, "nowhere"),
    ):
        other = asked()
        other["suites"] |= changed
        with pytest.raises(UserError, match=text):
            plan = Plan(other)
            plan.name_record(plan.name_victim("standard", SETTING), "more", SETTING, 30)


def test_the_test_split_written_out_is_the_one_that_is_left_out() -> None:
    def named(**changed) -> Record:
        params = asked()
        params["suites"]["core"] |= changed
        plan = Plan(params)
        return plan.name_record(plan.name_victim("standard", SETTING), "more", SETTING, 30)

    assert named(split="test") == named()
    with pytest.raises(UserError, match="suites.more.after: core is of another split"):
        named(split="validation")


def test_nobody_leaves_a_random_victim(here) -> None:
    whole, left = made(here, "moody", "plain"), made(here, "moody", "core")
    for name in CORE:
        assert np.array_equal(whole[f"{name}/right"], left[f"{name}/right"])
        assert np.array_equal(left[f"{name}/asked"], left["clean/right"] > 0)


def test_a_resumed_suite_that_leaves_has_the_same_bytes(here, stopped_at) -> None:
    made(here, "standard", "core")
    record = record_of(here, "standard", "core")
    whole = record.path.read_bytes()
    record.path.unlink()
    with stopped_at(CORE[1]):
        evaluate.evaluate(here, record, tiny.CPU)
    evaluate.evaluate(here, record, tiny.CPU)
    assert record.path.read_bytes() == whole


def test_a_record_says_whether_an_attack_left_the_generators_alone(here, monkeypatch) -> None:
    made(here, "standard", "plain")
    record = record_of(here, "standard", "plain")
    assert "C18" not in {flag.check for flag in lint.judge([record])}
    record.path.unlink()
    attack = Evaluation.attack

    def drawing(self, name, spec, seed=0):
        torch.rand(1)
        return attack(self, name, spec, seed)

    monkeypatch.setattr(Evaluation, "attack", drawing)
    evaluate.evaluate(here, record, tiny.CPU)
    (found,) = [flag for flag in lint.judge([record]) if flag.check == "C18"]
    assert found.fails


def test_attacks_of_a_suite_that_leaves_are_no_columns() -> None:
    for column, known in (("core_worst", True), ("core", True), ("apgd_ce", False)):
        found = asked()
        found["tables"]["table1"] |= {"suites": ["core"], "columns": ["clean", column]}
        if known:
            assert column in Plan(found).table("table1").columns
        else:
            with pytest.raises(UserError, match=column):
                Plan(found)


# ---- random victims


def test_a_random_victim_stores_a_verdict_for_each_member(here) -> None:
    found = made(here, "moody", "plain")
    said, labels = found["pgd10/members"], found["labels"]
    assert said.shape == (30, 2)
    assert np.array_equal(found["pgd10/right"], (said == labels[:, None]).mean(1))
    shares = found["pgd10/right"]
    assert np.array_equal(metrics.view("all", shares), (shares == 1).astype(np.float32))
    assert np.allclose(metrics.view("k10", np.float32([0, 0.5, 1])), [0, 0.5**10, 1])
    assert meta(found)["random"]


def test_expected_all_and_k_queries_are_columns() -> None:
    found = asked()
    table = found["tables"]["table1"]
    table |= {"suites": ["plain"], "columns": ["clean", "pgd10_all", "plain_worst_k10"]}
    assert Plan(found).table("table1").columns == ("clean", "pgd10_all", "plain_worst_k10")


# ---- sweeps


def test_a_sweep_is_one_record_at_several_radii(here) -> None:
    found = made(here, "standard", "sweep")
    names = ["pgd20_eps_0", "pgd20_eps_8_255", "pgd20_eps_1"]
    right = [found[f"{name}/right"] for name in names]
    assert np.array_equal(right[0], found["clean/right"])
    assert right[0].sum() > right[1].sum() >= right[2].sum()
    radii = [dict(record_of(here, "standard", "sweep").attacks)[n]["fields"]["eps"] for n in names]
    assert radii == pytest.approx([0, 0.2, 6.375])


# ---- transfer sets


def test_a_transfer_set_is_crafted_once_in_float32_for_every_victim(here) -> None:
    found = made(here, "standard", "transfer")
    record = record_of(here, "standard", "transfer")
    assert [name for name, _ in record.attacks] == [f"other_{name}" for name in SETS]
    sets = [here.set(id) for id in record.sets]
    assert len({sha256_of(s.path) for s in sets}) == 3
    tensors, about = load_safetensors(sets[0].path, "")
    assert tensors["images"].dtype == torch.float32 and len(tensors["images"]) == 30
    assert json.loads(about["fooled"]) > 0.9  # the surrogate itself falls
    before = [s.path.stat().st_mtime_ns for s in sets]
    other = made(here, "moody", "transfer")
    assert [s.path.stat().st_mtime_ns for s in sets] == before
    assert record_of(here, "moody", "transfer").sets == record.sets
    assert not np.array_equal(found["other_mpgd/right"], other["other_mpgd/right"])
    accuracies = [worst(found, [f"other_{n}" for n in SETS[:k]]).mean() for k in (1, 2, 3)]
    assert accuracies == sorted(accuracies, reverse=True)
    assert found["clean/right"].mean() > accuracies[0]


def test_a_set_that_the_library_crafts_does_not_depend_on_the_batch(here) -> None:
    """It draws its starts for a whole batch from one seed."""
    crafted = []
    for batch in (300, 7):
        params = asked()
        params["attacks"]["theirs"] = {"base": "torchattacks", "class": "PGD", "norm": "linf"}
        params["attacks"]["theirs"] |= {"eps": "8/255", "steps": 2}
        params["suites"]["transfer"]["attacks"] = ["theirs"]
        params["resources"]["evaluate"]["batch"] = batch
        plan = Plan(params)
        source = plan.set(record_of(plan, "standard", "transfer").sets[0])
        tiny.trained(plan, "other", 2)
        transfer.craft(plan, source, tiny.CPU)
        crafted.append(source.path.read_bytes())
    assert crafted[0] == crafted[1]


def test_a_transfer_verdict_is_that_of_the_victim_on_the_stored_images(here) -> None:
    found = made(here, "standard", "transfer")
    record = record_of(here, "standard", "transfer")
    split = load_split(record.victim.dataset, "test", tiny.CPU)
    victim = models.load_victim(here, record.victim, split, tiny.CPU)
    rows = torch.from_numpy(found["ids"])
    moved = sets.read(here.set(record.sets[0]), split, rows)
    with torch.no_grad():
        right = victim(moved).argmax(1) == split.labels[rows]
    clean = found["clean/right"] > 0
    assert np.array_equal(found["other_mpgd/right"][clean] > 0, right.numpy()[clean])
    eps = dict(record.attacks)["other_mpgd"]["fields"]["eps"]
    assert found["other_mpgd/linf"].max() == pytest.approx(eps, abs=1e-6)


def test_a_member_of_the_victim_cannot_be_its_surrogate(here) -> None:
    with pytest.raises(UserError, match="victims.itself: .*cannot be its surrogate"):
        record_of(here, "standard", "circular")


@pytest.mark.parametrize("surrogate", ["averaged", "mean_logit"])
def test_an_attack_of_a_transfer_suite_has_no_surrogate_of_its_own(surrogate) -> None:
    found = asked()
    found["attacks"]["sgm"] |= {"surrogate": surrogate}
    found["tables"]["table1"] |= {"suites": ["transfer"], "columns": ["clean", "transfer_worst"]}
    with pytest.raises(UserError, match=f"suites.transfer.*sgm has surrogate {surrogate}") as e:
        Plan(found)
    assert "\n" not in str(e.value)
    found["attacks"]["sgm"] |= {"surrogate": "self"}
    assert Plan(found).graph.sets


def test_a_sibling_is_the_rows_own_method_at_another_seed(here) -> None:
    for row in ("standard", "moody"):
        record = record_of(here, row, "siblings")
        (source,) = [here.set(id).surrogate for id in record.sets]
        assert source.entry == row and source.combine == record.victim.combine
        assert not {e.run for e in source.elements} & {e.run for e in record.victim.elements}


def with_twin(name: str) -> dict:
    found = asked()
    found["victims"] |= {"twin": {"of": "twin"}, "doubtful": {"of": "standard", "twin": "none"}}
    found["methods"]["standard"] |= {"twin": name}
    found["methods"]["pgd_at"] |= {"twin": "none"}
    found["suites"]["twins"] = {"attacks": ["mpgd"], "surrogates": ["other", "twin"]}
    return found


def test_a_twin_is_the_row_that_the_entry_or_its_base_names_at_the_rows_own_seed() -> None:
    plan = Plan(with_twin("pgd_at"))
    sets_of = {
        row: plan.name_record(plan.name_victim(row, SETTING), "twins", SETTING, 30)
        for row in ("standard", "moody", "doubtful", "pgd_at")
    }
    surrogates = {
        row: [plan.set(id).surrogate for id in record.sets] for row, record in sets_of.items()
    }
    twin = plan.name_victim("pgd_at", SETTING)
    assert surrogates["standard"][1:] == [twin] == surrogates["moody"][1:]
    assert [name for name, _ in sets_of["moody"].attacks] == ["other_mpgd", "twin_mpgd"]
    assert len(surrogates["doubtful"]) == len(surrogates["pgd_at"]) == 1  # `none` takes it back


def test_a_twin_that_is_no_row_or_the_victim_itself_is_refused() -> None:
    with pytest.raises(UserError, match="methods.standard.twin: 'pgd_ta' .*nearest: pgd_at"):
        Plan(with_twin("pgd_ta"))
    plan = Plan(with_twin("standard"))
    with pytest.raises(UserError, match="methods.standard.twin: .*name another row, or none"):
        plan.name_record(plan.name_victim("standard", SETTING), "twins", SETTING, 30)


def test_a_set_of_other_images_is_refused(here) -> None:
    made(here, "standard", "transfer")
    source = here.set(record_of(here, "standard", "transfer").sets[0])
    split = load_split(source.surrogate.dataset, "test", tiny.CPU)
    with pytest.raises(UserError, match="is of another plan"):
        sets.read(source, split, torch.arange(30))


# ---- weights from elsewhere


def adopted(here: Plan, path: Path, keys: list, **changed) -> Plan:
    split = load_split(here.dataset("digits"), "test", tiny.CPU)
    params = yaml.safe_load(Path("params.yaml").read_text())
    entry = {"of": "file", "file": str(path), "sha256": sha256_of(path), "method": "standard"}
    entry |= {"members": 1, "mean": list(split.mean), "std": list(split.std), "keys": keys}
    entry["dataset"] = "digits"
    params["victims"]["mine"] = {**entry, **changed}
    return Plan(params)


def theirs(here: Plan, prefix: str) -> tuple[dict, Record]:
    """Weights of a run as another project may name them, and the run's own record."""
    setting = Setting("cifar10", "resnet20", "unified", 1, 0)
    (run,) = tiny.trained(here, "standard", 1)
    weights, _ = load_safetensors(run.folder / "weights.safetensors", "")
    record = here.name_record(here.name_victim("standard", setting), "plain", setting, 30)
    evaluate.evaluate(here, record, tiny.CPU)
    return {f"{prefix}{name.removeprefix('0.')}": v for name, v in weights.items()}, record


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_weights_from_elsewhere_are_evaluated_without_training(here, name) -> None:
    weights, own = theirs(here, "module.")
    path = Path(name)
    if name.endswith(".pt"):
        torch.save({"state_dict": weights, "epoch": 3}, path)
    else:
        from safetensors.torch import save_file

        save_file(weights, path)
    plan = adopted(here, path, [["module.", ""]])
    setting = Setting("cifar10", "resnet20", "unified", 1, 0)
    victim = plan.name_victim("mine", setting)
    run = plan.run(victim.elements[0].run)
    assert run.stage == "adopt" and run.parents == ()
    adopt.adopt(plan, run)
    record = plan.name_record(victim, "plain", setting, 30)
    evaluate.evaluate(plan, record, tiny.CPU)
    ours, mine = read_arrays(own.path), read_arrays(record.path)
    for attack in ("clean", *CORE):
        assert np.array_equal(ours[f"{attack}/right"], mine[f"{attack}/right"])
    assert meta(mine)["cost"]["train_flops"] == 0


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_what_is_no_plain_weights_is_refused_in_one_line(here, capsys) -> None:
    weights, _ = theirs(here, "")
    setting = Setting("cifar10", "resnet20", "unified", 1, 0)
    path = Path("weights.pt")

    def take_in(**changed) -> None:
        plan = adopted(here, path, changed.pop("keys", []), **changed)
        adopt.adopt(plan, plan.run(plan.name_victim("mine", setting).elements[0].run))

    torch.save(weights, path)
    take_in()
    with pytest.raises(UserError, match="its sha256 is"):
        take_in(sha256="0" * 64)
    with pytest.raises(UserError, match="do not fit this arch"):
        take_in(keys=[["stem.", "trunk."]])
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="cannot be read as plain weights"):
        take_in()
    assert "run" not in capsys.readouterr().out
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="no mapping from names to tensors"):
        take_in()
    with pytest.raises(UserError, match="one value for each of 1 channels"):
        take_in(mean=[0, 0, 0])
    with pytest.raises(UserError, match="is no file of weights"):
        adopted(here, Path("weights.pt"), [], file="weights.txt").name_victim("mine", setting)


# ---- images out, and members against each other


def test_exported_images_do_what_the_record_says(here) -> None:
    arrays = made(here, "standard", "core")
    record = record_of(here, "standard", "core")
    split = load_split(record.victim.dataset, "test", tiny.CPU)
    victim = models.load_victim(here, record.victim, split, tiny.CPU)
    for name in CORE:
        images, _ = export.images(here, record, name, tiny.CPU)
        asked_ = arrays[f"{name}/asked"]
        with torch.no_grad():
            right = victim(images).argmax(1).numpy() == arrays["labels"]
        assert np.array_equal(right[asked_], arrays[f"{name}/right"][asked_] > 0)
        change = (images - split.floats(torch.from_numpy(arrays["ids"]))).abs().flatten(1).amax(1)
        assert np.array_equal(change.numpy(), arrays[f"{name}/linf"])


def test_an_attack_that_came_after_others_is_exported_on_whom_they_left_right(here) -> None:
    after = made(here, "standard", "more")
    images, _ = export.images(here, record_of(here, "standard", "more"), "fgsm", tiny.CPU)
    split = load_split(here.dataset("digits"), "test", tiny.CPU)
    changed = (images != split.floats(torch.from_numpy(after["ids"]))).flatten(1).any(1).numpy()
    assert 0 < after["fgsm/asked"].sum() < len(images)
    assert not changed[~after["fgsm/asked"]].any()


def test_export_writes_images_labels_and_ids(here, capsys) -> None:
    writer.write(Path(), exported())
    plan = Plan(exported())
    tiny.trained(plan, "standard", 2)
    (record,) = [c.records["plain"] for c in plan.table("table1").cells]
    evaluate.evaluate(plan, record, tiny.CPU)
    export.main([str(record.path), "pgd10", "images.safetensors"])
    tensors, about = load_safetensors(Path("images.safetensors"), "")
    assert {n: len(t) for n, t in tensors.items()} == dict.fromkeys(
        ("images", "labels", "ids", "right"), 30
    )
    assert about["record"] == record.id and "30 images" in capsys.readouterr().out
    with pytest.raises(UserError, match="no attack 'pgd11'"):
        export.main([record.id, "pgd11", "images.safetensors"])


def exported() -> dict:
    found = asked()
    found["tables"]["table1"] |= {"suites": ["plain"], "members": [2]}
    found["tables"]["table1"]["columns"] = ["clean", "pgd10"]
    return found


def test_a_member_falls_to_its_own_attack_more_than_the_others(here) -> None:
    record = record_of(here, "standard", "plain")
    split = load_split(record.victim.dataset, "test", tiny.CPU)
    members = list(models.load_victim(here, record.victim, split, tiny.CPU).members)
    spec = dict(record.attacks)["pgd10"]
    found = matrix(members, split, torch.arange(100), spec)
    assert len(found) == len(found[0]) == 2
    for own in range(2):
        assert found[own][own] == max(found[own]) > 0.3

    # what the attack climbs is made of the one member, as of a whole victim
    heated = matrix(members, split, torch.arange(100), {**spec, "surrogate": "heated"})
    assert heated != found
    records = Plan(published() | {"scale": "demo"}).graph.records.values()
    force = next(
        dict(r.attacks)["chosen_force"] for r in records if "chosen_force" in dict(r.attacks)
    )
    force = {**force, "fields": {**force["fields"], "steps": 3, "restarts": 1}}
    found = matrix(members, split, torch.arange(40), force)  # climbs answers: an IndexError
    assert all(found[own][own] == max(found[own]) for own in range(2))
