"""MCE, margin boosting (MRBoost, Zhang et al., ICML 2022): learners one after another.

The margin-maximising loss of logits z is l(z, y) = CE(z, y) + weight mean_{k != y} -log
softmax(-z)_k (Eq. 9). Learner m trains while those before it are frozen: x' ascends l of the mean
of the logits of learners 1 to m, all in evaluation mode, from a start within eps / 2, and learner m
alone descends l(z_m(x'), y), as the authors' code does by default (`individual`). The ensemble
answers with the mean of its logits. The recipe's epochs are those of one learner.

Departure: the authors' code (ladder_mce_main.py) forwards the examples twice in training mode, so
that the running statistics move twice a batch by them; here one forward gives the loss.

Every learner is a run of its own whose parents are the learners before it, so that three are a part
of five. Not ported: learners that start from the one before (`persistent`, off by default), and the
rotations that its loader adds on CIFAR-100.
"""

from dataclasses import dataclass

from pipeline.methods._boosted import Boosted


@dataclass(frozen=True, kw_only=True)
class Mce(Boosted):
    """A learner that corrects those before it."""
