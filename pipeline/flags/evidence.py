"""What the records of one victim say together: the evidence that the red flags judge."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.intervals import Z95
from pipeline.core.metrics import Verdicts
from pipeline.errors import UserError
from pipeline.plan import Record
from pipeline.plan.params.values import Entry, settings_of
from pipeline.store import manifest
from pipeline.store.records import SIZES, Arrays, meta, read_record, rests_on

CORE = "core"  # the suite that every row meets alike
TOLERANCE = 1e-6  # C1: rounding of x + delta in float32
ROUNDING = 2.0**-23  # C1, l1: of a changed pixel, whose channels are each 2**-25 off at most
SCORES = ("margin", "loss")  # what a record keeps of a victim's scores
SUM = 8  # C1, l1: roundings that a float32 sum of thousands of terms is off, relative to it


def read(record: Record) -> Arrays:
    """A record's arrays; raises UserError unless it is this plan's and its attacks kept C1."""
    arrays = read_record(record.path, [name for name, _ in record.attacks])
    # Through JSON, as the record holds it: tuples are lists there.
    if meta(arrays)["spec"] != json.loads(json.dumps(record.spec)):
        raise UserError(f"{record.path}: is of another plan; delete it and evaluate again")
    manifest.check_rests_on(record.path, rests_on(meta(arrays)))
    check_budget(arrays, record.attacks, str(record.path))
    if name := not_finite(arrays, record.attacks):
        raise UserError(f"{record.path}: the victim's scores under {name} are no finite numbers")
    return arrays


def not_finite(arrays: Arrays, attacks: Iterable[tuple[str, Any]]) -> str | None:
    """The first of clean and the attacks under which a victim gave scores that are no numbers."""
    for name in ("clean", *(attack for attack, _ in attacks)):
        if not all(np.isfinite(arrays[f"{name}/{part}"]).all() for part in SCORES):
            return name
    return None


@dataclass(frozen=True, eq=False)
class Attack:
    """One attack of a record: its spec and its arrays."""

    name: str
    spec: Entry
    arrays: Arrays

    @property
    def right(self) -> Verdicts:
        """Verdicts on all images."""
        right: Verdicts = self.arrays["right"]
        return right

    @property
    def kind(self) -> str:
        """The component's name, or the class behind the adapter."""
        fields = self.spec["fields"]
        return str(fields["class"] if "class" in fields else self.spec["component"])

    def field(self, name: str, default: Any = None) -> Any:
        """A setting of the attack, also of one behind the adapter."""
        return self.settings.get(name, default)

    @cached_property
    def settings(self) -> Entry:
        """Its fields, those of an attack behind the adapter included."""
        return settings_of(self.spec["fields"])

    @property
    def ball(self) -> tuple[str, float]:
        """Norm and radius; radius 0 where nothing bounds it. Only attacks of one ball compare."""
        norm = str(self.spec["fields"].get("norm", "linf"))
        return norm, float(self.field("eps") or 0)

    @property
    def is_exact(self) -> bool:
        """Whether it differentiates the victim itself, on all images that are right."""
        return self.spec["surrogate"] in ("self", "averaged")


class Evidence:
    """All records of one victim: the clean arrays and every attack."""

    def __init__(self, records: list[tuple[Arrays, list[tuple[str, Entry]]]]) -> None:
        self.clean = records[0][0]
        self.metas = [meta(arrays) for arrays, _ in records]
        self.ids = [arrays["ids"] for arrays, _ in records]
        slopes = [a["clean/slope_ratio"] for a, _ in records if "clean/slope_ratio" in a]
        self.slope_ratios = slopes[0] if slopes else np.zeros(0, np.float32)
        self.classes = int(self.clean["labels"].max(initial=1)) + 1
        self.random = bool(self.metas[0].get("random"))

        self.attacks: list[Attack] = []
        self.cascades: list[list[Attack]] = []  # of suites that stop when fooled
        self.core: list[Attack] = []  # of them, those of the suite `core`

        for about, (arrays, attacks) in zip(self.metas, records, strict=True):
            group = []
            for name, spec in attacks:
                own = {k.split("/")[1]: v for k, v in arrays.items() if k.startswith(f"{name}/")}
                group.append(Attack(name, spec, own))

            if about.get("suite") == CORE:
                self.core = group
            if about["spec"].get("leave"):
                self.cascades.append(group)
            else:
                self.attacks += group

    @property
    def right(self) -> Verdicts:
        """Verdicts on clean images."""
        right: Verdicts = self.clean["clean/right"]
        return right

    @property
    def left(self) -> list[Attack]:
        """Attacks of suites that stop when fooled."""
        return [attack for group in self.cascades for attack in group]

    def alone(self, attack: Attack) -> Verdicts:
        """Verdicts of an attack by itself: whom others had fooled before it was not its doing."""
        right: Verdicts = np.where(attack.arrays["asked"], attack.right, self.right)
        return right

    def everything(self) -> list[Attack]:
        """All attacks; those of suites that stop when fooled come last."""
        return [*self.attacks, *self.left]

    def of(self, *kinds: str, **settings: Any) -> list[Attack]:
        """Attacks of some kinds on the victim itself, with some settings."""
        return [
            a
            for a in self.attacks
            if a.kind in kinds
            and a.is_exact
            and all(a.field(name) == value for name, value in settings.items())
        ]


def by_images(records: Iterable[Record]) -> list[list[Record]]:
    """Records of one victim, apart by the images they saw: flags compare image by image."""
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record.split, record.images), []).append(record)
    return list(groups.values())


def bound(differences: NDArray[Any]) -> float:
    """Lower 95 % bound of a mean paired difference (Agresti and Min 2005: two images more).

    The two further images, half of one in favour of each side, keep the interval of 0 of 30
    differences from being empty.
    """
    count = len(differences) + 2
    mean = float(differences.sum()) / count
    variance = (float(np.square(differences, dtype=np.float64).sum()) + 1) / count - mean**2
    return mean - Z95 * float(np.sqrt(variance / count))


def exceeds(above: Verdicts, below: Verdicts, slack: float) -> bool:
    """Whether the first accuracy is beyond doubt larger by more than the slack."""
    return bound(above.astype(np.float64) - below) > slack


def points(above: Verdicts, below: Verdicts) -> str:
    """The difference of two accuracies, for a text."""
    return f"{100 * float((above.astype(np.float64) - below).mean()):.1f} points"


def check_budget(arrays: Arrays, attacks: tuple[tuple[str, Any], ...], where: str) -> None:
    """C1 of a record: see `check_ball`."""
    for name, spec in attacks:
        parts = {key: arrays[f"{name}/{key}"] for key in SIZES if f"{name}/{key}" in arrays}
        check_ball(parts, spec, f"{where}: {name}")


def check_ball(found: Arrays, spec: Any, where: str) -> None:
    """C1: no image may leave its ball or the box; raises UserError: its numbers are worthless."""
    outside = float(found["outside"].max(initial=0.0))
    if not outside <= TOLERANCE:
        raise UserError(f"{where} left the range of pixels, [0, 1], by {outside}")

    fields = spec["fields"]
    key, eps = fields.get("norm", "linf"), settings_of(fields).get("eps")
    if eps is None or key == "none":  # nothing bounds it
        return

    sizes = found[key]
    slack: Any = TOLERANCE
    if key == "l1":  # a sum over pixels: their roundings add up
        slack += ROUNDING * (found["pixels"] + SUM * eps)
    if not np.all(sizes <= eps + slack):
        raise UserError(f"{where} left its ball ({sizes.max()} > {eps})")
