"""Names as people read them: PGD-AT for pgd_at, CIFAR-10 for cifar10; ids stay in files."""

import re
from collections.abc import Iterable
from typing import Any

from pipeline.plan.params.entries import Entries

NAMES = {
    "standard": "standard",
    "pgd_at": "PGD-AT",
    "trades": "TRADES",
    "mart": "MART",
    "arow": "ARoW",
    "hat": "HAT",
    "stat": "STAT",
    "awp": "AWP",
    "gairat": "GAIRAT",
    "fat": "FAT",
    "ard": "ARD",
    "iad": "IAD",
    "rslad": "RSLAD",
    "adp": "ADP",
    "gal": "GAL",
    "dverge": "DVERGE",
    "trs": "TRS",
    "more": "MoRE",
    "mce": "MCE",
    "barre": "BARRE",
    "igat": "iGAT",
    "ccg": "CCG",
    "seat": "SEAT",
    "idbh": "IDBH",
    "aute": "AUTE",
    "soe": "SoE",
    "at_aka": "AT-AKA",
    "cat_aka": "CAT-AKA",
    "ps_red": "PS-RED",
    "red": "RED",
    "meat": "MEAT",
    "wa": "WA",
    "swa": "SWA",
    "last_bn": "last, new BN statistics",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "mnist": "MNIST",
    "tiny_imagenet": "Tiny-ImageNet",
    "digits": "Digits",
}
ATTACKS = {
    name: name.upper()
    for name in ("fgsm", "bim", "mim", "pgd", "apgd", "fab", "cw", "eot", "svgd", "ce", "dlr", "t")
}
PARTS = re.compile(r"([a-z]+)([0-9]*)")


def read(name: object) -> str:
    """A row's label or a column as people read it: the longest known beginning, then the rest.

    What stands behind a row's name (`x3`, `train_eps=8/255`) stays.
    """
    first, *rest = str(name).split(" ")
    return " ".join([_read(first), *rest])


def name_row(row: object, line: Any) -> str:
    """A row with the red flags that fired on its records, of numbers that say which."""
    several = [] if "flags" not in line else line["flags"].tolist()  # of points along an axis
    flags = " ".join(dict.fromkeys(" ".join(several).split()))
    return f"{read(row)} [{flags}]" if flags else read(row)


def name_data(entries: Entries, datasets: Iterable[str]) -> str:
    """Data sets, each with what stands in for it and its factor on radii."""
    stand_ins = {name: entries.stand_in(name) for name in datasets}
    return ", ".join(
        read(name) if of == name else f"{read(of)} for {read(name)} (eps x {float(factor):.4g})"
        for name, (of, factor) in stand_ins.items()
    )


def _read(name: str) -> str:
    words = name.split("_")
    for end in range(len(words), 0, -1):
        known = NAMES.get("_".join(words[:end]))
        if known:
            beside = " ".join(_word(word) for word in words[end:])
            return f"{known} ({beside})" if beside else known

    found = [_word(word) for word in words]
    if words[-1] == "worst":
        return f"{' '.join(found[:-1])}, worst case"
    return ("-" if found[0] != words[0] else " ").join(found)


def _word(word: str) -> str:
    """PGD-10 of pgd10, AUTE of aute; any other word as it is."""
    found = PARTS.fullmatch(word)
    if found is None or found[1] not in ATTACKS:
        return NAMES.get(word, word)
    return f"{ATTACKS[found[1]]}-{found[2]}" if found[2] else ATTACKS[found[1]]
