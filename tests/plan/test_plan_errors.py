"""What params.yaml may not say, section by section: each is one line that names the key."""

import copy
import functools

import pytest
from projects import published

from pipeline.errors import UserError
from pipeline.plan import Plan

GONE = object()


@functools.cache
def small():
    """The file with its first table alone, at demo scale."""
    params = published() | {"scale": "demo"}
    params["tables"] = {"table1": params["tables"]["table1"]}
    params["figures"] = {}
    for scale in params["scales"].values():
        known = scale.get("tables", {})
        scale.pop("figures", None)
        if known:
            scale["tables"] = {name: known[name] for name in known if name == "table1"}
    params["parents"]["teacher"] = {"method": "pgd_at", "seed": 9}
    return params


def changed(path, value):
    params = copy.deepcopy(small())
    place = params
    *parents, last = path.split(".")
    for key in parents:
        place = place[key]
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    return params


AVERAGE = {"members": 1, "start": 60, "stop": 0, "bn_data": "clean", "bn_statistic": "cumulative"}
CASES = [
    ("bata", {}, "bata: no such section"),
    ("scale", GONE, "scale: no entry None"),
    ("scale", "dmo", "scale: no entry 'dmo' (nearest: demo)"),
    ("mirror", 3, "mirror: 3 is not a folder, a URL or none"),
    ("core", {"train": 1}, "core: needs exactly prepare, train, average, transfer, evaluate"),
    ("core.train", "1", "core.train: '1' is not a whole number"),
    # scales
    ("scales.paper", {"images": 3}, "scales.paper: must stay {}: the file is paper scale"),
    ("scales.demo.thread", 2, "scales.demo.thread: no such key (nearest: threads)"),
    ("scales.demo.threads", 0, "scales.demo.threads: 0 is too few; write 1 or more"),
    ("scales.demo.device", "gpu", "scales.demo.device: 'gpu' is not one of cpu, cuda, auto"),
    ("scales.demo.gflops", 0, "scales.demo.gflops: 0.0 is not more than 0"),
    ("scales.demo.images", 0, "scales.demo.images: 0 is too few; write 1 or more"),
    ("scales.demo.seeds", [7], "tables.table1.seeds: the scale keeps none of them: [7]"),
    ("scales.demo.archs", {"resnet2": "resnet8"}, "scales.demo.archs.resnet2: no entry 'resnet2'"),
    ("scales.demo.archs.resnet20", "resnet9", "scales.demo.archs.resnet20: no entry 'resnet9'"),
    ("scales.demo.recipe.epoch", 3, "scales.demo.recipe.epoch: no such key (nearest: epochs)"),
    ("scales.demo.recipe.epochs", 0, "scales.demo.recipe.epochs: 0 is too few; write 1 or more"),
    (
        "scales.demo.recipes.autee",
        {},
        "scales.demo.recipes.autee: no entry 'autee' (nearest: aute)",
    ),
    ("scales.demo.recipes.aute", 5, "scales.demo.recipes.aute: must be a mapping, found 5"),
    ("scales.demo.recipes.aute.epoch", 5, "scales.demo.recipes.aute.epoch: no such key"),
    (
        "scales.demo.recipes.aute.epochs",
        0,
        "scales.demo.recipes.aute.epochs: 0 is too few; write 1 or more",
    ),
    (
        "scales.demo.recipes.aute.epochs",
        121,
        "scales.demo.recipes.aute.epochs: 121 is more than recipes.aute has (120)",
    ),
    ("scales.demo.attacks.pgd111", {}, "scales.demo.attacks.pgd111: no entry 'pgd111'"),
    ("scales.demo.attacks.pgd100", 3, "scales.demo.attacks.pgd100: must be a mapping, found 3"),
    (
        "scales.demo.attacks.pgd100",
        {"steps": 101},
        "scales.demo.attacks.pgd100.steps: 101 is more than attacks.pgd100 has (100); a scale only",
    ),
    (
        "scales.demo.tables.table1",
        {"rows": ["standard", "pgd_att"]},
        "scales.demo.tables.table1.rows: 'pgd_att' is not in tables.table1.rows "
        "(nearest: pgd_at); a scale only shrinks",
    ),
    ("scales.demo.tables.table9", {}, "scales.demo.tables.table9: no entry 'table9'"),
    (
        "scales.demo.tables.table1.rows",
        ["red_each"],
        "scales.demo.tables.table1.rows: 'red_each' is not in tables.table1.rows",
    ),
    ("scales.demo.tables.table1.colums", ["x"], "tables.table1.colums: no such key (nearest: col"),
    ("scales.demo.stand_ins.cifar1", {}, "scales.demo.stand_ins.cifar1: no entry 'cifar1'"),
    ("scales.demo.stand_ins.cifar10", {}, "scales.demo.stand_ins.cifar10: key dataset is missing"),
    ("scales.demo.stand_ins.cifar10.dataset", "x", "stand_ins.cifar10.dataset: no entry 'x'"),
    ("scales.demo.stand_ins.cifar10.eps_factor", 0, "cifar10.eps_factor: 0 is not more than 0"),
    # components
    ("datasets.digits.colour", 1, "datasets.digits.colour: no such key"),
    ("archs.resnet20.width", GONE, "archs.resnet20: key width is missing; add it"),
    ("attacks.fgsm.eps", "8/0", "attacks.fgsm.eps: '8/0' is not a number or a fraction"),
    ("attacks.fgsm.surrogate", "mean", "attacks.fgsm.surrogate: 'mean' is not one of self"),
    ("attacks.fgms", {"eps": 1}, "attacks.fgms: no file pipeline/attacks/fgms.py (nearest: fgsm)"),
    ("methods.trades.bata", 1, "methods.trades.bata: no such key (nearest: beta)"),
    ("methods.trades.lr", "x", "methods.trades.lr: 'x' is not a number or a fraction"),
    ("methods.trades.members", 0, "methods.trades.members: 0 is too few; write 1 or more"),
    ("methods.trades.members", 1001, "methods.trades.members: 1001 is more than 1000"),
    ("methods.trades.attack", "members_margin_pgd", "attacks.members_margin_pgd: has a surrogate"),
    ("methods.trades.attack", "pdg", "methods.trades.attack: no entry 'pdg' (nearest: pgd)"),
    ("methods.trades.combine", "mean", "trades.combine: 'mean' is not one of mean_prob"),
    ("methods.meat", {"base": "trades"}, "methods.meat: is in averages too; rename one"),
    # recipes
    ("recipes.unified.epochs", 0, "recipes.unified.epochs: 0 is too few; write 1 or more"),
    ("recipes.unified.milestones", [100, 80], "recipes.unified.milestones: must not fall"),
    ("recipes.unified.lr_values", [0.1], "recipes.unified.lr_values: needs 2 values"),
    ("recipes.unified.schedule", "one_cycle", "recipes.unified.milestones: one_cycle needs its"),
    (
        "recipes.unified.schedule",
        "piecewise_linear",
        "recipes.unified.lr: 0.1 is never the rate",
    ),
    ("recipes.unified.train_images", 1, "recipes.unified.train_images: 1 is too few; write 2 or"),
    ("methods.seat.ema_start", 121, "methods.seat.ema_start: 121 lies behind the last epoch, 120"),
    ("methods.soe.phase_two", 121, "methods.soe.phase_two: 121 lies behind the last epoch, 120"),
    ("methods.fat.rises", [50, 130], "methods.fat.rises: 130 lies behind the last epoch, 120"),
    ("methods.aute.joint", False, "methods.aute.joint: false, but members of aute meet in"),
    ("methods.mce.joint", True, "methods.mce.joint: true, but members of mce train in turn"),
    ("datasets.digits.channels", 2, "datasets.digits.channels: autoaugment is of images with 1 or"),
    (
        "methods.cat_aka.joint",
        False,
        "methods.cat_aka.joint: false, but members of cat_aka meet in",
    ),
    # names in entries that nothing uses
    (
        "recipes.x",
        {"base": "unified", "attack": "nosuch"},
        "recipes.x.attack: no entry 'nosuch'",
    ),
    ("methods.x", {"base": "ard", "teacher": "nosuch"}, "methods.x.teacher: no entry 'nosuch'"),
    ("methods.x", {"base": "pgd_at", "attack": "nosuch"}, "methods.x.attack: no entry 'nosuch'"),
    (
        "parents.x",
        {"method": "pgd_at", "arch": {"cifar_100": "wrn34_10"}},
        "parents.x.arch: no entry 'cifar_100' (nearest: cifar100)",
    ),
    (
        "parents.x",
        {"method": "pgd_at", "arch": {"cifar100": "wrn34_1"}},
        "parents.x.arch: no entry 'wrn34_1' (nearest: wrn34_10)",
    ),
    # averages, victims, parents
    ("parents.vanilla.members", 1, "parents.vanilla: has 1 members to start 3"),
    ("parents.vanilla.arch", "resnet20_wide", "parents.vanilla.arch: resnet8_wide cannot start"),
    (
        "averages.meat",
        {**AVERAGE, "method": "aute_own", "best": True},
        "averages.meat.best: a row's recipe trains on the validation images (held_out)",
    ),
    (
        "averages.meat",
        {**AVERAGE, "method": "gairat", "bn_data": "adversarial"},
        "averages.meat.bn_data: adversarial, but the recipe of gairat has no attack",
    ),
    ("averages.meat.method", "pgd", "averages.meat.method: 'pgd' is no victim, average or method"),
    ("averages.meat.method", "meat", "averages.meat.method: meat is no method"),
    ("averages.meat.start", 0, "averages.meat.start: 0 is none of the epochs 1 to 120"),
    ("averages.meat.start", 121, "averages.meat.start: 121 is none of the epochs 1 to 120"),
    ("averages.meat.stop", 121, "averages.meat.stop: 121 is none of the epochs 1 to 120"),
    ("averages.meat.stop", 59, "averages.meat.stop: 59 lies before start"),
    ("victims.overconfident.of", GONE, "victims.overconfident: key of is missing; add it"),
    ("victims.overconfident.of", "pgd_at_single", "victims.overconfident.of: pgd_at_single is a"),
    ("victims.overconfident.checkpoint", "lst", "overconfident.checkpoint: 'lst' is not one of"),
    ("victims.overconfident.scale", 3, "victims.overconfident.scale: no such key"),
    ("victims.overconfident.logit_scale", "x", "victims.overconfident.logit_scale: 'x' is not a"),
    ("parents.teacher.metod", "x", "parents.teacher.metod: no such key (nearest: method)"),
    ("parents.teacher.method", "x", "parents.teacher.method: 'x' is no victim"),
    ("averages.last_bn.best", True, "averages.last_bn.best: this average follows no trajectory"),
    ("averages.meat.best", 1, "averages.meat.best: 1 is not true or false"),
    ("methods.red.weights", "imagenet", "methods.red.weights: no entry 'imagenet'"),
    ("weights.imagenet_resnet18.files", "x", "weights.imagenet_resnet18.files: no such key"),
    ("weights.imagenet_resnet18.names", "timm", "weights.imagenet_resnet18.names: 'timm' is not"),
    (
        "weights.imagenet_resnet18.file",
        "a.zip",
        "imagenet_resnet18.file: 'a.zip' is no file of weights",
    ),
    ("weights.imagenet_resnet18.fresh", "stem", "imagenet_resnet18.fresh: needs a list of prefix"),
    # suites and tables
    ("suites.core.peers", 1, "suites.core.peers: 1 is not true or false"),
    ("suites.core.split", "train", "suites.core.split: 'train' is not one of test, validation"),
    ("tables.table1.on_request", 1, "tables.table1.on_request: 1 is not true or false"),
    ("suites.sweep.eps", ["big"], "suites.sweep.eps: 'big' is not a number or a fraction"),
    ("suites.sweep.eps", [0.01, 0.01], "suites.sweep.eps: 0.01 stands twice"),
    ("suites.sweep.eps", ["1/4", 0.25], "suites.sweep.eps: 0.25 stands twice"),
    ("suites.core", {"attacks": []}, "suites.core.attacks: needs a list of names"),
    ("suites.core", {"attacks": ["pgd", "pgd"]}, "suites.core.attacks: pgd stands twice"),
    ("suites.core", {"attack": ["pgd"]}, "suites.core.attack: no such key (nearest: attacks)"),
    ("suites.core", {"attacks": ["none"]}, "suites.core.attacks: no entry 'none'"),
    ("tables.table1.rows", "trades", "tables.table1.rows: needs a list of names"),
    ("tables.table1.columns", ["cleen"], "tables.table1.columns: no entry 'cleen' (nearest: clean"),
    ("tables.table1.columns", ["clean", ["pgd10"]], "tables.table1.columns: no entry ['pgd10']"),
    ("tables.table1.columns", ["pgd10_l3"], "tables.table1.columns: no entry 'pgd10_l3' (nearest"),
    ("tables.table1.columns", ["cw_l2_l2"], "tables.table1.columns: no entry 'cw_l2_l2'"),
    ("tables.table1.columns", ["apgd_ce_l2"], "tables.table1.columns: no entry 'apgd_ce_l2'"),
    ("tables.table1.columns", ["core_worst_l2_1"], "table1.columns: no entry 'core_worst_l2_1'"),
    ("tables.table1.columns", ["pgd10_l2_1_0"], "tables.table1.columns: no entry 'pgd10_l2_1_0'"),
    ("tables.table1.means", {"a": ["pgd10_l2"]}, "tables.table1.means.a: no entry 'pgd10_l2'"),
    ("tables.table1.means", {"clean": ["clean", "pgd10"]}, "means.clean: is another column"),
    ("tables.table1.means", {"core_worst": ["pgd10"]}, "means.core_worst: is another column"),
    ("tables.table1.means", {"flags": ["pgd10"]}, "means.flags: is another column"),
    ("tables.table1.suites", ["cores"], "tables.table1.suites: no entry 'cores' (nearest: core)"),
    ("tables.table1.members", [0], "tables.table1.members: 0 is too few; write 1 or more"),
    ("tables.table1.members", [3, 3], "tables.table1.members: a number stands twice"),
    ("tables.table1.seeds", [-1], "tables.table1.seeds: -1 is too few"),
    ("tables.table1.images", GONE, "tables.table1: key images is missing; add it"),
    ("tables.table1.checkpoint", "lst", "tables.table1.checkpoint: 'lst' is not one of last, best"),
    (
        "tables.table1.reference",
        "x",
        "tables.table1.reference: 'x' is no victim, average or method",
    ),
    ("tables.table1.reported", "x", "tables.table1.reported: no file data/reported/x.csv"),
    ("tables.table1.recipe", "x", "tables.table1.recipe: no entry 'x'"),
    ("tables.table1.datasets", ["cifar"], "tables.table1.datasets: no entry 'cifar' (nearest: cif"),
    ("tables.table1.title", 3, "tables.table1.title: 3 is no line of text"),
    ("tables.table1.bta", [1, 2], "tables.table1.bta: no such key (nearest: beta)"),
    (
        "tables.table1.batch_size",
        [128, 256],
        "tables.table1.batch_size: 128 and 256 are both 64 at scale demo; take one off",
    ),
    ("tables.table1.beta", 1, "tables.table1.beta: an axis is a list of values"),
    ("tables.table1.beta", ["x"], "methods.trades.beta: 'x' is not a number"),
    ("tables.claims", {"base": "table1"}, "tables.claims: results/claims is taken; rename it"),
    ("tables.runs_x", {"base": "table1"}, "tables.runs_x: results/runs is taken; rename it"),
    ("tables.table1_all", {"base": "table1"}, "tables.table1_all: is taken by another; rename one"),
    ("planned", ["trades"], "planned: trades exists; take it off the list"),
    ("planned", "trades", "planned: needs a list of names"),
    # resources
    ("resources.trian", {}, "resources: 'trian' is not one of train, average, transfer, evaluate"),
    ("resources.train", {"gpu": 3}, "resources.train.gpu: no such key (nearest: gpus)"),
    (
        "resources.train.graphs",
        "step",
        "resources.train.graphs: 'step' is not one of none, crafting",
    ),
    ("resources.train.gpus", GONE, "resources.train: key gpus is missing"),
    ("resources.train.cpus", 0, "resources.train.cpus: 0 is too few; write 1 or more"),
    ("archs.resnet20.macs", 0, "archs.resnet20.macs: 0 is too few; write 1 or more"),
    ("archs.resnet20.runs_per_gpu", "x", "archs.resnet20.runs_per_gpu: 'x' is not a whole number"),
    ("datasets.digits.images", 0, "datasets.digits.images: 0 is too few; write 1 or more"),
    # names of keys that were others
    ("averages.meat.of", "pgd_at", "averages.meat.of: is called method now; rename it"),
    ("suites.core.leave", True, "suites.core.leave: is called stop_when_fooled now; rename it"),
    ("tables.table1.apart", True, "tables.table1.apart: is called on_request now; rename it"),
    # verdicts called like something else of their victim
    ("attacks.clean", {"base": "fgsm"}, "attacks.clean: is the name of another column; rename it"),
    ("attacks.members", {"base": "fgsm"}, "attacks.members: is the name of another column"),
    ("attacks.status", {"base": "fgsm"}, "attacks.status: is the name of another column"),
    ("suites.clean", {"base": "core"}, "suites.clean: is the name of another column; rename it"),
    # grammar
    ("attacks.full_apgd_t.uncut", 1, "attacks.full_apgd_t.uncut: 1 is not true or false"),
    (
        "scales.demo.attacks.full_apgd_t",
        {"steps": 1},
        "scales.demo.attacks.full_apgd_t: the entry is `uncut`; take one off",
    ),
    ("suites.core.base", "cores", "suites.core.base: no entry 'cores' (nearest: core)"),
    ("suites.core.base", "core", "suites.core.base: goes in a circle"),
    ("scales.demo.tables.table1.variants", 0, "tables.table1.variants: 0 is not true or false"),
    ("tables.table1.rows", ["trades", ["tradez"]], "table1.rows: no entry 'tradez' (nearest: trad"),
    ("tables.table1.rows", ["trades", [["aute"]]], "tables.table1.rows: no entry ['aute']"),
]


@pytest.mark.parametrize("path, value, problem", CASES, ids=range(len(CASES)))
def test_what_cannot_be_is_refused_by_name(path, value, problem):
    with pytest.raises(UserError) as caught:
        Plan(changed(path, value))
    assert problem in str(caught.value)
    assert str(caught.value).startswith("params.yaml: ") and "\n" not in str(caught.value)


def test_an_unknown_row_is_refused_with_the_nearest():
    params = changed("tables.table1.rows", ["tradez"]) | {"scale": "paper"}
    with pytest.raises(UserError) as caught:
        Plan(params)
    assert str(caught.value) == (
        "params.yaml: tables.table1.rows: no entry 'tradez' (nearest: trades)"
    )


def test_peers_that_pareto_would_teach_nothing_are_refused():
    params = changed("methods.peers", {"base": "cat_aka", "amalgamation": "pareto"})
    params["tables"]["table1"]["rows"] = ["peers"]
    with pytest.raises(UserError, match="methods.peers.amalgamation: pareto teaches peers nothing"):
        Plan(params)


def test_the_small_file_itself_is_fine():
    assert set(Plan(small()).tables) == {"table1", "table1_all"}


def test_a_data_set_is_not_called_as_a_folder_of_others():
    params = changed("tables.table1.datasets", ["raw"])
    params["datasets"]["raw"] = {"base": "digits"}
    with pytest.raises(UserError) as caught:
        Plan(params)
    assert str(caught.value) == "params.yaml: datasets.raw: data/raw is taken; rename it"


@pytest.mark.parametrize("ask", ["table", "run", "record", "dataset"])
def test_an_unknown_name_is_refused_with_a_hint(ask):
    with pytest.raises(UserError) as caught:
        getattr(Plan(small()), ask)("table2")
    assert "'table2'" in str(caught.value)


def test_a_table_answers_to_its_file_and_its_name():
    plan = Plan(published())
    paths = {"aute_table1", "aute/table1", "results/aute/table1.csv", "./results/aute/table1.csv"}
    assert {plan.table(path).name for path in paths} == {"aute_table1"}
    assert str(plan.table("aute_table1").path) == "results/aute/table1.csv"
