"""PGD on the margin of probabilities instead of logits: PMA's loss (Xie et al. 2024)."""

from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.attacks.pgd import PGD
from pipeline.core.ascent import Objective, on_labels
from pipeline.core.losses import probability_margin
from pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PMA(PGD):
    """PGD that ascends max_{k != y} p_k - p_y; the loss alone, not the paper's two stages."""

    def __post_init__(self) -> None:
        """Refuse another loss than its own."""
        super().__post_init__()
        if self.loss != "margin":
            raise UserError(f"params.yaml: attacks: pma with loss {self.loss}: its loss is margin")

    def _objective(self, model: nn.Module, images: Tensor, labels: Tensor) -> Objective:
        return on_labels(probability_margin, labels)
