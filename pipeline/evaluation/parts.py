"""Verdicts under one attack, named by all that they follow from, so that none is made twice.

While a record is made its parts lie in `work/records`, each behind its checksum; a finished record
is its parts, under the sum that its job wrote. So a suite that gains an attack takes the others
from the record that it had before. Only parts made by the same code on the same class of machine
are taken up: bytes repeat there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.job.device import MACHINE
from pipeline.plan import Plan, Record, shared
from pipeline.plan.params.words import digest
from pipeline.store.records import DAMAGE, Arrays, pack, peek, read_part, read_record
from pipeline.store.scratch import read_scratch, write_scratch
from pipeline.store.sums import beside, read_mapping

About = Mapping[str, Any]  # what a record says of itself: spec, weights, sets, before, untouched
SECONDS = ".seconds"  # ends the name of the file with a part's time


def name_parts(about: About) -> dict[str, str]:
    """Of each attack of a record, the name of its verdicts: victim, weights, images and attack,
    and in a suite that stops when fooled the attacks before it."""
    spec = about["spec"]
    names = {}
    for number, (attack, asked) in enumerate(spec["attacks"], start=1):
        behind = {key: about[key] for key in ("weights", "before") if key in about}
        behind |= {"set": about["sets"][asked["set"]]} if "set" in asked else {}
        attacks = spec["attacks"][0 if spec.get("leave") else number - 1 : number]
        names[attack] = f"{attack}-{digest({**spec, 'attacks': attacks, 'rests_on': behind}, 16)}"
    return names


@dataclass(frozen=True)
class Earlier:
    """A finished record of the same victim: what it says of itself, and how it was made."""

    path: Path
    about: About
    times: Mapping[str, Any]
    attacks: Mapping[str, str]  # by the names of their parts

    def is_of(self, machine: Mapping[str, str], plan: Plan) -> bool:
        """Whether its bytes are those that this machine and today's shared code would make."""
        same = all(self.times.get(key) == machine[key] for key in MACHINE)
        same = same and self.about.get("untouched") is True
        return same and shared.is_current(plan, "evaluate", self.times.get("shared"))

    @cached_property
    def arrays(self) -> Arrays:
        """Its arrays when they are as its job wrote them, else none."""
        try:
            return read_record(self.path, self.attacks.values())
        except UserError as error:
            print(f"{error}; its verdicts are made again", flush=True)
            return {}

    def read(self, part: str) -> Arrays:
        """The verdicts of that name; empty where there are none that hold."""
        prefix = f"{self.attacks.get(part)}/"
        return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}

    def seconds(self, part: str) -> float | None:
        """How long the attack took there, where that is known."""
        taken = self.times.get("attacks")
        found = taken.get(self.attacks[part]) if isinstance(taken, dict) else None
        return float(found) if isinstance(found, int | float) else None


def _read_earlier(path: Path) -> Earlier | None:
    """What a record says of itself; None where that cannot be read."""
    try:
        about = peek(path)
        attacks = {part: attack for attack, part in name_parts(about).items()}
    except DAMAGE:  # tables say so, to whom it matters
        return None
    return Earlier(path, about, read_mapping(beside(path)), attacks)


class Parts:
    """The parts of a record in the making: those that are there, and where new ones are kept."""

    def __init__(
        self,
        plan: Plan,
        record: Record,
        about: About,
        machine: Mapping[str, str],
        code: Mapping[str, str],
    ) -> None:
        self.names, self.images = name_parts(about), record.images
        path = record.path
        self.seconds: dict[str, float] = {}  # of each attack, whenever it ran, where that is known
        self.spent_before = 0.0  # seconds, of those that another record's job ran

        victim = Path("work/records") / path.parent.name
        made_by = {"shared": dict(code), **{key: machine[key] for key in MACHINE}}
        self.work = victim / path.stem / digest({"weights": about["weights"], **made_by})
        self.folders = [self.work, *sorted(victim.glob(f"*/{self.work.name}/"))]

        others = [other for other in sorted(path.parent.glob("*.npz")) if other != path]
        found = [earlier for earlier in map(_read_earlier, others) if earlier]
        self.earlier = [earlier for earlier in found if earlier.is_of(machine, plan)]

    def read(self, attack: str) -> Arrays | None:
        """Verdicts that were made before, for this suite or another; None where there are none."""
        part = self.names[attack]
        for folder in self.folders:
            content = read_scratch(folder / f"{part}.npz")
            verdicts = None if content is None else read_part(content, self.images)
            if verdicts is not None:
                self._spend(attack, _read_seconds(folder / f"{part}{SECONDS}"))
                return verdicts

        for earlier in self.earlier:
            verdicts = earlier.read(part) if part in earlier.attacks else None
            if verdicts:
                self._spend(attack, earlier.seconds(part))
                print(f"{attack}: its verdicts are those of {earlier.path}", flush=True)
                return verdicts
        return None

    def _spend(self, attack: str, seconds: float | None) -> None:
        """Note what verdicts took that another process made."""
        self.seconds |= {attack: seconds} if seconds is not None else {}
        self.spent_before += seconds or 0.0

    def write(self, attack: str, verdicts: Arrays, seconds: float) -> None:
        """Keep verdicts for a run that goes on, and before them the time that they took."""
        self.seconds[attack] = round(seconds, 2)
        part = self.work / self.names[attack]
        write_scratch(part.with_name(f"{part.name}{SECONDS}"), str(self.seconds[attack]).encode())
        write_scratch(part.with_name(f"{part.name}.npz"), pack(verdicts))


def _read_seconds(path: Path) -> float | None:
    """The time that stands beside verdicts in the making."""
    content = read_scratch(path)
    return None if content is None else float(content)
