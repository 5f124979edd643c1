"""What a figure shows of one row at one seed: its records, or its victim and test images."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pipeline.core.ensemble import Combination
from pipeline.errors import UserError
from pipeline.evaluation.surrogates import surrogates
from pipeline.evaluation.verdicts import Evaluation
from pipeline.flags.evidence import Attack
from pipeline.loading import registry
from pipeline.plan.params.values import Entry


@dataclass(frozen=True, eq=False)
class Recorded:
    """A row in its records; `attacks` holds the clean images too, under `clean`.

    settings: the axis that is shown at this row, as its runs resolved it, and its members.
    """

    label: str
    victim: str  # id: points of an axis that a scale makes one are one victim
    settings: dict[str, Any]
    attacks: dict[str, Attack]
    flags: tuple[str, ...] = ()  # checks that fired on these records
    not_trusted: tuple[str, ...] = ()  # those for which its worst cases are not ranked


@dataclass(frozen=True, eq=False)
class Loaded:
    """A row's victim with the test images that it is shown on."""

    label: str
    evaluation: Evaluation
    specs: Entry  # of the figure's own attacks, by name

    @property
    def victim(self) -> Combination:
        """The victim, frozen."""
        return self.evaluation.victim

    @property
    def images(self) -> Tensor:
        """Clean images [N, C, H, W] in [0, 1]."""
        return self.evaluation.images

    @property
    def labels(self) -> Tensor:
        """Labels [N]."""
        return self.evaluation.labels

    @property
    def ids(self) -> Tensor:
        """Indices into the test split [N]: draws follow them."""
        return self.evaluation.ids

    def crafted(self, name: str) -> Tensor:
        """The images as an evaluation crafts them, clean where the attack had no success."""
        return self.evaluation.crafted(name, self.specs[name])[0]

    def attack(self, name: str) -> tuple[Any, Any]:
        """An attack and the one model it differentiates, which follows the victim's weights."""
        spec = self.specs[name]
        models = surrogates(self.victim, spec["surrogate"])
        if len(models) > 1:
            raise UserError(f"params.yaml: attacks.{name}: climbs several models in turn; "
                            "a figure needs an attack on one")  # fmt: skip
        return registry.build("attacks", spec), models[0]
