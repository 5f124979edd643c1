"""What a run or record costs, against a count by hand and against torch's own counter."""

from fractions import Fraction

import pytest
import torch
from projects import published, tiny_params

from pipeline.core.flops import count_macs, count_parameters
from pipeline.evaluation import verdicts
from pipeline.loading import registry
from pipeline.plan import Plan, memory
from pipeline.plan.estimate import (
    PROCESS,
    describe,
    forward_macs,
    record_flops,
    run_flops,
    seconds,
)
from pipeline.plan.memory import FIXED, record_bytes, run_bytes
from pipeline.plan.params.entries import Entries
from pipeline.plan.params.schema import available
from pipeline.plan.passes import passes
from pipeline.plan.state import describe_transfer, headline, states

PLAN = Plan(published())


@pytest.mark.parametrize("name", list(published()["archs"]))
def test_what_an_arch_states_is_what_is_counted_of_its_net(name):
    arch = registry.build("archs", PLAN.entries.resolve("archs", name).spec)
    with torch.device("meta"):
        net = arch.build(classes=10, channels=3, size=32, mean=[0.0] * 3, std=[1.0] * 3)
        kept = count_kept(net.train(), 4) - count_kept(net, 2)
    counted = {"macs": count_macs(net.eval(), 3, 32), "parameters": count_parameters(net)}
    counted["activations"] = kept / 2
    assert {key: PLAN.entries.stated("archs", name, key) for key in counted} == counted


def count_kept(net, images):
    """Numbers that a backward pass through a net keeps beside its parameters."""
    own, found = {p.untyped_storage()._cdata for p in net.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        found[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(torch.zeros(images, 3, 32, 32, requires_grad=True)).sum()
    return sum(storage.nbytes() for key, storage in found.items() if key not in own) / 4


def test_memory_is_weights_and_what_a_step_keeps():
    params = published() | {"scale": "paper"}
    plan = Plan(params)
    (cell,) = [c for c in plan.table("table1").cells if (c.row, c.seed) == ("aute", 0)]
    run = plan.run(cell.victim.elements[0].run)
    weights, kept = 3 * 272474, 3 * 392256
    # it validates 500 images at once, which is more than a step of 128
    assert run_bytes(plan, run) == FIXED + 4 * 3 * weights + 4 * 500 * kept
    recipe, held = run.spec["recipe"], {}
    for every, micro in ((0, 0), (2, 32), (0, 32)):
        recipe |= {"validate_every": every, "micro_batch": micro}
        held[every, micro] = (run_bytes(plan, run) - FIXED) / 4 - 3 * weights
    assert held == {(0, 0): 128 * kept, (2, 32): 32 * kept, (0, 32): 32 * kept}

    section = plan.entries.section("resources")["evaluate"]
    record = cell.records["unified"]
    first = record_bytes(plan, record)
    random = next(c for c in plan.table("table1").cells if c.row == "red").records["unified"]
    drawn = record_bytes(plan, random)
    section["batch"] *= 2
    assert record_bytes(plan, record) - first == 4 * 300 * kept
    assert record_bytes(plan, random) == drawn  # it meets 300 images, whatever the batch
    assert (memory.DRAWN, memory.LIBRARY) == (verdicts.BATCH, verdicts.LIBRARY)  # without torch

    # SoE's step keeps its three losses' images and clean ones
    soe = next(r for r in plan.graph.runs.values() if r.entry == "soe" and r.arch == "resnet20")
    soe.spec["recipe"] |= {"validate_every": 0, "micro_batch": 0}
    batch = soe.spec["recipe"]["batch_size"]
    assert (run_bytes(plan, soe) - FIXED) / 4 - 3 * weights == 4 * batch * kept

    del params["archs"]["resnet20"]["activations"]
    plan = Plan(params)
    assert run_bytes(plan, run) is None and record_bytes(plan, record) is None


def test_every_data_set_that_a_table_names_states_its_images():
    names = {cell.setting.dataset for table in PLAN.tables.values() for cell in table.cells}
    for name in {*names, "digits"}:
        assert PLAN.entries.stated("datasets", name, "images")


@pytest.mark.parametrize(
    "fields, wanted",
    [
        ({"eps": 0.1}, 2),
        ({"steps": 10, "restarts": 1}, 20),
        ({"steps": 50, "restarts": 5}, 500),
        ({"steps": 100, "restarts": 1, "targets": 0, "eot": 1}, 200),
        ({"steps": 100, "restarts": 2, "targets": 9, "eot": 20}, 72000),
        ({"queries": 5000, "restarts": 1}, 5000),
        ({"steps": 50, "rivals": 10}, 600),
        ({"tries": 10}, 10),
        ({"widths": [0.5, 1.0, 1.5]}, 3),
        # AutoAttack: APGD-CE, APGD-T and FAB-T of nine targets, Square; APGD-CE and -DLR
        ({"version": "standard", "steps": 100, "targets": 9, "restarts": 1, "queries": 5000}, 9700),
        ({"version": "plus", "steps": 100, "targets": 9, "restarts": 5, "queries": 5000}, 17500),
        ({"version": "rand", "steps": 100, "targets": 9, "restarts": 1, "eot": 20}, 8000),
        # torchattacks, at its own budgets where none is stated
        ({"class": "Square", "arguments": {"eps": 0.03}}, 5000),
        ({"class": "AutoAttack", "arguments": {"eps": 0.03, "seed": 0}}, 5470),
        ({"class": "PGD", "arguments": {"alpha": 0.01}}, 20),
        ({"class": "Pixle", "arguments": {"restarts": 10, "max_iterations": 50}}, 1000),
        ({"class": "OnePixel", "arguments": {"steps": 10, "popsize": 10}}, 110),
        ({"class": "EOTPGD", "arguments": {"steps": 10, "eot_iter": 2}}, 40),
    ],
)
def test_passes_are_two_a_gradient_step_and_one_a_query(fields, wanted):
    assert passes({"component": "pgd", "fields": fields}) == wanted


@pytest.mark.parametrize(
    "entry, members, wanted",
    [
        ("fab_t", 3, 100 * 9 * 3),  # a step is a forward and a backward, and a look afterwards
        ("fab", 3, 100 * (2 + 10)),
        ("chosen_force", 3, 5 * 3 * 50 * 2),  # each member in turn
        ("chosen_force_t", 3, 3 * 9 * 50 * 2),
        ("gate_pgd", 3, 3 * 50 * 2),
        ("members_arc", 3, 2 * 50 * (1 + 3 * (2 + 3))),
        ("svgd", 1, 20 * 10 * 2),
    ],
)
def test_passes_of_attacks_that_take_members_or_classes_in_turn(entry, members, wanted):
    found = Entries(published() | {"scale": "paper"}).attack(entry, Fraction(1)).spec
    assert passes(found, members) == wanted


def tiny_plan(**changes):
    params = tiny_params()
    params["archs"]["tiny"] = {"base": "resnet8"}
    params["tables"]["table1"]["members"] = [3]
    params["tables"]["table1"] |= changes
    return Plan(params)


def of(artifacts, entry):
    return next(a for a in artifacts if a.entry == entry)


def test_a_trainings_flops_are_counted_as_by_hand():
    plan = tiny_plan(rows=["trades", "aute", "standard"])
    runs = plan.graph.runs.values()
    image = 2 * 12501632 * 8**2 // 32**2  # FLOPs of one forward at 8x8
    assert run_flops(plan, of(runs, "trades")) == 64 * 2 * (2 * 2 + 7) * image
    attack = of(runs, "aute").spec["attack"]["fields"]["steps"]
    assert run_flops(plan, of(runs, "aute")) == 64 * 2 * 3 * (2 * attack + 5) * image
    assert run_flops(plan, of(runs, "standard")) == 64 * 2 * 3 * image


def test_networks_that_train_along_and_particles_are_counted():
    """Three teachers craft 20 steps on their own particle; the student learns clean images."""
    plan = tiny_plan(rows=["at_aka", "at_aka_literal", "at_aka_own_input", "cat_aka"])
    runs = plan.graph.runs.values()
    image = 2 * 12501632 * 8**2 // 32**2
    teacher = 2 * plan.entries.section("archs")["wrn34_10"]["macs"] * 8**2 // 32**2
    steps = of(runs, "at_aka").spec["method"]["fields"]["steps"]
    epochs = 64 * 2
    clean = run_flops(plan, of(runs, "at_aka"))
    assert clean == epochs * (3 * image + 3 * (2 * steps + 3) * teacher)
    every = run_flops(plan, of(runs, "at_aka_literal"))  # each at every particle
    assert every == epochs * (3 * image + 3 * (3 * 2 * steps + 3) * teacher)
    assert run_flops(plan, of(runs, "at_aka_own_input")) - clean == epochs * 2 * steps * image
    assert run_flops(plan, of(runs, "cat_aka")) == epochs * 3 * (2 * steps + 3) * image


def test_parents_that_answer_and_images_that_choose_are_counted():
    params = tiny_params()
    params["tables"]["table1"]["rows"] = ["rslad", "pgd_at"]
    plan = Plan(params)
    runs = plan.graph.runs.values()
    run, image = of(runs, "rslad"), 2 * forward_macs(plan, of(runs, "pgd_at"))
    teachers = [plan.run(e.run) for e in run.edges["teacher"].elements]
    asked = 2 * sum(forward_macs(plan, teacher) for teacher in teachers)
    steps = run.spec["method"]["fields"].get("steps", 0)
    assert asked and run_flops(plan, run) == 64 * 2 * ((2 * steps + 6) * image + asked)

    params["recipes"]["unified"]["validate_every"] = 2
    params["scales"][params["scale"]]["recipe"].pop("validate_every", None)
    plan = Plan(params)
    runs = plan.graph.runs.values()
    judged = 180 * (1 + 2 * of(runs, "pgd_at").spec["validation_attack"]["fields"]["steps"])
    steps = of(runs, "pgd_at").spec["attack"]["fields"]["steps"]
    trained = 64 * 2 * (2 * steps + 3) * image
    assert run_flops(plan, of(runs, "pgd_at")) == trained + judged * image


def test_an_average_that_chooses_its_epoch_makes_and_judges_every_one():
    params = tiny_params()
    params["tables"]["table1"]["rows"] = ["trades", "wa", "wa_best"]
    params["averages"]["wa_best"]["start"] = 1
    plan = Plan(params)
    runs = plan.graph.runs.values()
    once, forward = run_flops(plan, of(runs, "wa")), forward_macs(plan, of(runs, "wa"))
    steps = of(runs, "trades").spec["validation_attack"]["fields"]["steps"]
    judged = 180 * (1 + 2 * steps) * 2 * forward
    assert run_flops(plan, of(runs, "wa_best")) == 2 * (once + judged)


def test_training_images_are_those_left_after_the_held_out_ones():
    params = tiny_params()
    params["scales"]["demo"]["recipe"]["train_images"] = 0
    plan = Plan(params)
    run = of(plan.graph.runs.values(), "trades")
    assert run_flops(plan, run) == (1797 - 720 - 180) * 2 * 11 * 2 * forward_macs(plan, run)


@pytest.mark.parametrize("bn_data, images", [("kept", 0), ("clean", 1), ("adversarial", 5)])
def test_an_average_costs_its_pass_over_the_training_images(bn_data, images):
    params = tiny_params()
    params["averages"]["wa"]["bn_data"] = bn_data
    plan = Plan(params)
    run = of(plan.graph.runs.values(), "wa")
    assert run_flops(plan, run) == 64 * images * 2 * forward_macs(plan, run)


def test_an_evaluations_flops_are_counted_as_by_hand():
    plan = tiny_plan(rows=["trades", "aute"])
    image = 2 * 12501632 * 8**2 // 32**2
    for record in plan.graph.records.values():  # three members, one step of FGSM
        assert record_flops(plan, record) == 20 * 2 * 3 * image


def test_seconds_are_flops_at_the_scales_speed_and_a_start_of_every_process():
    plan = tiny_plan()
    runs = list(plan.graph.runs.values())
    flops = sum(run_flops(plan, run) for run in runs)
    found = seconds(plan, runs)
    assert found == pytest.approx(len(runs) * PROCESS + flops / (plan.entries.gflops * 1e9))
    assert plan.entries.gflops == published()["scales"]["demo"]["gflops"]
    assert Plan(published() | {"scale": "paper"}).entries.gflops == 20000


def test_an_arch_without_macs_makes_the_estimate_unknown():
    params = published()
    del params["archs"]["resnet20"]["macs"], params["archs"]["resnet8"]["macs"]
    plan = Plan(params)
    run = of(plan.graph.runs.values(), "trades")
    assert run_flops(plan, run) is None and seconds(plan, [run]) is None
    assert "unknown" in describe(None)


@pytest.mark.parametrize(
    "found, words",
    [
        (0, "0 seconds"),
        (89.6, "90 seconds"),
        (90, "2 minutes"),
        (5399, "90 minutes"),
        (5400, "1.5 hours"),
        (360000, "100.0 hours"),
    ],
)
def test_an_estimate_is_said_in_words(found, words):
    assert describe(found) == words


@pytest.mark.parametrize("scale, hours, rows", [("short", 8, 35), ("lunch", 1, 12)])
def test_a_first_real_table_fits_the_time_that_its_scale_names(scale, hours, rows):
    plan = Plan(published() | {"scale": scale})
    table = plan.tables["table1"]
    records, runs = plan.needs(table)
    found = seconds(plan, [*runs, *records])
    assert found is not None and found <= hours * 3600
    assert len({cell.row for cell in table.cells}) == rows
    if scale == "short":  # one row of each family
        trained = {r.spec["method"]["component"] for r in runs if r.stage == "train"}
        assert trained == set(available("methods"))


def test_the_estimate_says_how_much_of_it_is_for_transferred_images_alone():
    table = PLAN.table("table1")
    needed = states(PLAN, [table])
    judged = [s for s in needed if s.stage == "evaluate" and s.artifact.sets]
    sets = [s for s in needed if s.stage == "transfer"]
    surrogates = [s for s in needed if s.stage == "train" and "-s900" in s.id]
    assert judged and sets and surrogates

    for_transfer = [*judged, *sets, *surrogates]
    own = [s for s in needed if s not in for_transfer]
    assert describe_transfer(PLAN, [table], for_transfer) == ", of it transfer 100 %"
    assert describe_transfer(PLAN, [table], own) == ""
    share = 100 * sum(s.seconds for s in for_transfer) / sum(s.seconds for s in needed)
    assert 0 < share <= 10
    assert headline(PLAN, [table], needed).endswith(f"GFLOP/s, of it transfer {share:.0f} %")
