"""What the keys of each section mean: type, default, meaning."""

from pipeline.plan.graph import outside
from pipeline.plan.params import checks

INTRODUCTION = """# Every key of params.yaml

Written by `python -m pipeline params > docs/params.md`; a test keeps it true. An entry is a name
and a flat mapping; `base: other` makes it that entry with the keys given here in place of its own.
Entries of `papers/<paper>.yaml` stand in the same sections. Numbers are written 12, 0.0001 or
8/255. A key without a default must be given, by the entry or by what it is based on."""

Key = tuple[str, str, str]  # type, default, meaning
MUST = "must be given"
COMPONENTS = ("datasets", "archs", "attacks", "methods", "averages", "figures")
SURROGATES = ", ".join(f"`{name}`" for name in checks.SURROGATES)
CHOICES = ", ".join(f"`{rule}`" for rule in checks.COMBINATIONS)

SCALES: dict[str, Key] = {
    "base": ("entry of `scales`", "none", "the scale that this one changes"),
    "threads": ("whole number", "1", "of a process; part of every name"),
    "device": ("`cpu`, `cuda`, `auto`", "auto", "auto is cuda where there is one"),
    "stand_ins": ("data set: {dataset, eps_factor}", "{}", "what is used instead of a data set"),
    "archs": ("arch: arch", "{}", "what is trained instead of an arch"),
    "recipe": ("keys of a recipe", "{}", "changes of every recipe"),
    "recipes": ("recipe: keys", "{}", "nearer changes, of one recipe and those based on it"),
    "attacks": ("attack: keys", "{}", "changes of an attack and of those based on it"),
    "members": ("whole number", "no bound", "most members of a table's rows"),
    "images": ("whole number", "no bound", "most images of a record"),
    "seeds": ("list of whole numbers", "all", "the seeds that are kept"),
    "tables": (
        "table: keys",
        "{}",
        "changes of a table; `variants: false` leaves out its variants",
    ),
    "figures": ("figure: keys", "{}", "changes of a figure"),
    "gflops": ("number", "20000", "GFLOP/s that the machine sustains, for estimates"),
}
NAMED = ", ".join(f"`{name}`" for name in outside.NAMES)
READING: dict[str, Key] = {
    "keys": ("list of [prefix, prefix]", "[]", "prefixes of the file's tensors, and ours"),
    "drop": ("list of prefixes", "[]", "tensors of the file that are no part of the network"),
    "part": ("word", "none", "which network, where a file holds `state_dict` and `ema`, say"),
}
WEIGHTS: dict[str, Key] = {
    "file": ("path, or a list", MUST, "one file, or one a member; nothing is unpickled"),
    "sha256": ("word, or a list", MUST, "of the files; none while there is none"),
    "names": (NAMED, MUST, "how its tensors are called; auto: the one layout that fits"),
    "fresh": ("list of prefixes", MUST, "tensors that may be of another shape and are then drawn"),
    **READING,
}
PARENTS: dict[str, Key] = {
    "method": ("row", MUST, "the victim, average or method that a parent is"),
    "arch": ("entry of `archs`, or one a data set", "the row's", "its arch"),
    "recipe": ("entry of `recipes`", "the row's", "its recipe"),
    "members": ("whole number", "the row's", "its members"),
    "seed": ("whole number", "the row's", "its seed"),
    "checkpoint": ("`last`, `best`", "the row's", "which of its weights"),
}
VICTIMS: dict[str, Key] = {
    "of": (
        "method, average, `file`, `same`, `twin`",
        MUST,
        "what is attacked; of a surrogate, the attacked row's own method, or its twin",
    ),
    "combine": (CHOICES, "the method's", "how members become one answer"),
    "logit_scale": ("number", "1", "factor of the logits"),
    "members": ("whole number", "the table's", "number of members"),
    "member": ("whole number", "all", "one member alone, counted from 0"),
    "arch": ("entry of `archs`", "the table's", "arch"),
    "recipe": ("entry of `recipes`", "the table's", "recipe"),
    "seed": ("whole number", "the table's", "seed; a surrogate needs its own"),
    "checkpoint": ("`last`, `best`", "the table's", "which weights"),
    "twin": ("row, or none", "that of `of`", "trained without what this row proposes"),
    "file": ("path, or a list", "none", "weights trained elsewhere, one file or one a member"),
    "sha256": ("word, or a list", "none", "of the files"),
    "method": ("entry of `methods`", "none", "how the file's members combine"),
    "mean": ("list of numbers", "none", "of the channels, that the file's network subtracts"),
    "std": ("list of numbers", "none", "of the channels, that it divides by"),
    "model": ("file.py:function", "none", "builds the file's network, in place of `arch`"),
    "dataset": ("entry of `datasets`", "the table's", "whose images it takes; none stands in"),
    "names": (NAMED, "ours", "how its tensors are called; auto: the one layout that fits"),
    **READING,
}
SUITES: dict[str, Key] = {
    "attacks": ("list of attacks", MUST, "in their order"),
    "stop_when_fooled": ("true or false", "false", "a fooled image meets no later attack"),
    "after": ("suite", "none", "asks only about images that this one left right"),
    "eps": ("list of radii", "each attack's own", "a sweep: every attack at each radius"),
    "surrogates": ("list of victims", "none", "transfer: the attacks are crafted on these"),
    "peers": ("true or false", "false", "also what the mean of all other members answers"),
    "split": ("`test`, `validation`", "test", "the images; choices are made on validation"),
}
TABLES: dict[str, Key] = {
    "title": ("text", MUST, "of the table"),
    "recipe": ("entry of `recipes`", MUST, "how its rows are trained"),
    "datasets": ("list of data sets", MUST, ""),
    "archs": ("list of archs, or one a data set", MUST, ""),
    "members": ("list of counts, or one a data set", MUST, "members of a row without its own"),
    "seeds": ("list of whole numbers", MUST, "replicates"),
    "rows": ("list, or one a data set", MUST, "rows; those in inner brackets are variants"),
    "columns": ("list of columns", MUST, "clean, an attack, a suite's worst case, a cost, a mean"),
    "suites": ("list of suites", MUST, "the records that its columns are of"),
    "means": ("name: list of columns", MUST, "means, or {strongest: columns}; {} for none"),
    "images": ("whole number", MUST, "how many test images, drawn once for all rows"),
    "checkpoint": ("`last`, `best`", MUST, "which weights are judged"),
    "reference": ("row, or none", MUST, "what rows are compared with"),
    "reported": ("paper, or none", MUST, "whose published numbers stand beside"),
    "printed": ("number, or any", MUST, "the paper's table of those numbers"),
    "on_request": ("true or false", "false", "made by its name only, not by `make demo-all`"),
}
FIGURES: dict[str, Key] = {
    "title": ("text", MUST, "of the picture"),
    "kind": ("file of `pipeline/figures/`", MUST, "what is drawn; its fields are below"),
    "table": ("entry of `tables`", MUST, "whose settings it takes"),
    "rows": ("list of rows", MUST, "what it shows"),
    "suites": ("list of suites", MUST, "the records that it reads"),
    "where": ("axis: value", MUST, "one value each of what the table varies; {} for none"),
}
RESOURCES: dict[str, Key] = {
    "gpus": ("whole number", MUST, "of a job; none where the scale computes on the CPU"),
    "cpus": ("whole number", MUST, "of a job"),
    "mem_mb": ("whole number", MUST, "memory of a first attempt"),
    "minutes": ("whole number", MUST, "of a job, before its estimate"),
    "slack": ("whole number", MUST, "times its estimate"),
    "most_minutes": ("whole number", MUST, "of one job of the cluster"),
    "save_minutes": (
        "whole number",
        MUST,
        "`train` alone: between two saves of its state, within an epoch too; 0: after every epoch "
        "alone. A signal saves at once",
    ),
    "graphs": (
        "`none`, `crafting`, `steps`",
        "crafting",
        "`train` alone, on a GPU: what is recorded as a CUDA graph and replayed where it takes at "
        "most a tenth of its memory. `crafting` has the bytes of `none`; `steps` (whole updates; "
        "not yet tried on a GPU) rounds the optimiser's step otherwise",
    ),
    "batch": (
        "whole number",
        MUST,
        "`evaluate` alone: images at once, also of transfer sets; verdicts are the same. A random "
        "victim, whose draws follow its batches, meets 300 always",
    ),
}
KEYS: dict[str, tuple[str, dict[str, Key]]] = {
    "scale": ("The entry of `scales` in use.", {}),
    "mirror": ("Folder or base URL with the raw files, or none for the official addresses.", {}),
    "core": (
        "A number for each stage, part of its results' names: bump it when shared code of the "
        "stage changes its results.",
        {},
    ),
    "scales": ("What a scale shrinks, and what stands in for what. `paper` is empty.", SCALES),
    "datasets": (
        "Name = file of `pipeline/datasets/`, which says the other keys.",
        {"images": ("whole number", "unknown", "official training images; in no name")},
    ),
    "archs": (
        "Name = file of `pipeline/archs/`, which says the other keys.",
        {
            "macs": ("whole number", "unknown", "multiply-adds of a 32x32 image; in no name"),
            "parameters": ("whole number", "unknown", "for 10 classes, for estimates; in no name"),
            "activations": (
                "whole number",
                "unknown",
                "numbers that a backward pass keeps of a 32x32 image, for estimates; in no name",
            ),
            "runs_per_gpu": ("whole number", "1", "trainings that share a GPU; in no name"),
        },
    ),
    "recipes": ("How a paper trains. A method may override any of these keys.", {}),
    "attacks": (
        "Name = file of `pipeline/attacks/`, which says the other keys.",
        {
            "surrogate": (SURROGATES, "self", "what it differentiates instead of the victim"),
            "only": ("list of combinations", "all", "the victims that it is for"),
            "uncut": ("true or false", "false", "at full strength whatever the scale"),
        },
    ),
    "methods": (
        "Name = file of `pipeline/methods/`, which says the other keys; keys of a recipe too, "
        "where `recipe` is the recipe's value again, whatever a base says.",
        {
            "members": ("whole number", "the table's", "its own number of members"),
            "weights": ("entry of `weights`", "none", "the file that every member starts from"),
            "twin": ("row, or none", "none", "trained without what this method proposes"),
        },
    ),
    "averages": (
        "Name = file of `pipeline/averages/`, which says the other keys.",
        {
            "method": ("entry of `methods`", MUST, "whose trajectory is averaged"),
            "members": ("whole number", "the table's", "its own number of members"),
            "best": ("true or false", "false", "the average that ends in the best epoch"),
        },
    ),
    "weights": ("Your own weights, for a method's `weights:`.", WEIGHTS),
    "parents": (
        "What a method's fields of type Parent or Start name: other trained victims.",
        PARENTS,
    ),
    "victims": ("Rows that are a method or an average, attacked differently.", VICTIMS),
    "suites": ("What a victim meets, in one record.", SUITES),
    "tables": (
        "Cells are rows x data sets x archs x members x seeds x axes: a list under a field of a "
        "row's method or recipe, or under `train_eps` (training and evaluation), is an axis.",
        TABLES,
    ),
    "figures": ("Pictures of a table's rows.", FIGURES),
    "planned": ("Rows and columns still to come: they stand in tables as such.", {}),
    "resources": ("What a job of each stage asks of a cluster, in no name.", RESOURCES),
}

FIELDS = {  # of components, where their own file says nothing beside them
    "eps": "radius of the ball",
    "step_size": "length of a step",
    "steps": "number of steps",
    "restarts": "number of runs; an image keeps its worst",
    "norm": "of the ball",
    "start": "where a run starts in the ball",
    "loss": "what is ascended",
    "any_iterate": "the first iterate that fools counts, not the last one alone",
    "decay": "of the momentum",
    "queries": "forward passes of the random search",
    "targets": "classes aimed at, one after the other; 0 is none",
    "eot": "gradients averaged at a step",
    "epochs": "passes over the training images",
    "batch_size": "images of a step",
    "schedule": "of the learning rate",
    "lr_values": "see milestones",
    "momentum": "of SGD",
    "nesterov": "Nesterov's momentum",
    "weight_decay": "of SGD, and of Adam where a method has it (ADP, GAL)",
    "attack_bn_mode": "mode of batch normalisation while crafting (glossary: bn mode)",
    "precision": "of training",
    "ema_start": "first epoch of that average",
    "ema_buffers": "batch statistics of that average",
    "select": "how the best epoch is chosen",
    "validation_attack": "on the validation images, for select",
    "joint": "members are one training, not one each",
    "combine": "how members become one answer (glossary: rule)",
    "smoothing": "share of a label that goes to all classes",
    "classes": "number of classes",
    "channels": "of an image",
    "split_seed": "of the held-out images",
    "augment": "of training images",
    "padding": "of crop_flip, in pixels",
    "sha256": "of the files, official or your own, in their order",
    "depth": "number of layers",
    "width": "channels of the first block",
    "widen": "factor of the channels",
    "blocks": "in each of three groups",
    "stop": "last epoch of the average; 0 is the last one",
}
