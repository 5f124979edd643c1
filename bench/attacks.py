"""Speed and agreement of our attacks against torchattacks at equal settings.

`python -m bench.attacks [images [attack ...]]`: forwards and backwards per sample (F, B), seconds
of our run, and how many times faster it is than that of torchattacks in the same process (a ratio
of processor times: trust nothing else).
The last net sees digits enlarged to 32x32 RGB, and a tenth of the images: the shape of CIFAR-10.
"""

import platform
import sys
import time
from collections.abc import Callable

import torch
import torchattacks
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.archs.resnet20 import ResNet20
from pipeline.attacks.apgd import APGD
from pipeline.attacks.autoattack import AutoAttack
from pipeline.attacks.fab import FAB
from pipeline.attacks.fgsm import FGSM
from pipeline.attacks.mim import MIM
from pipeline.attacks.pgd import PGD
from pipeline.attacks.square import Square
from pipeline.core.draws import Draws

EPS, SMALL = 0.2, 0.1  # nothing is left at 0.2 of the undefended and of the larger net
TEST = 720  # the others train: the split of data set `digits`
Crafted = Callable[[Tensor, Tensor], Tensor]


class Counting(nn.Module):
    """The samples that pass forward and backward through a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.work = {"forwards": 0, "backwards": 0}  # shared with a folded copy

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes]."""
        self.work["forwards"] += len(images)
        logits = self.model(images)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.work["backwards"] += len(gradient)


def pgd(eps: float, **changed) -> PGD:
    usual = dict(norm="linf", eps=eps, step_size=eps / 5, steps=100, restarts=1)
    return PGD(**{**usual, "start": "uniform", "loss": "ce", "any_iterate": False, **changed})


def apgd(eps: float, loss: str, targets: int) -> APGD:
    return APGD(
        norm="linf", eps=eps, steps=100, restarts=1, loss=loss, targets=targets, rho=0.75, eot=1
    )


def train(images: Tensor, labels: Tensor, eps: float) -> nn.Module:
    torch.manual_seed(0)
    arch = ResNet20(blocks=1, width=16, shortcut="conv", leaky=0.0)
    channels, size = images.shape[1:3]
    mean, std = [0.3] * channels, [0.4] * channels
    model = arch.build(classes=10, channels=channels, size=size, mean=mean, std=std)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.0005)
    attack = pgd(eps, step_size=eps / 3, steps=5)
    for epoch in range(8):
        for rows in torch.randperm(len(images)).split(100):
            batch = images[rows]
            if eps:
                model.eval()
                batch = attack(model, batch, labels[rows], Draws(epoch, rows))
            model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(batch), labels[rows]).backward()
            optimizer.step()
    return model.eval()


def pairs(model: nn.Module, eps: float) -> dict[str, tuple[object, Crafted]]:
    """Our attack, and torchattacks' with the same settings."""
    theirs = {
        "apgd_ce": torchattacks.APGD(model, eps=eps, steps=100),
        "apgd_t": torchattacks.APGDT(model, eps=eps, steps=100),
        "fab_t": torchattacks.FAB(model, eps=eps, steps=100, multi_targeted=True),
        "square": torchattacks.Square(model, eps=eps, n_queries=5000, resc_schedule=False),
    }
    fab = dict(alpha_max=0.1, eta=1.05, beta=0.9)
    whole = AutoAttack(
        **dict(version="standard", eps=eps, steps=100, targets=9, restarts=1, rho=0.75, eot=1),
        **dict(fab, queries=5000, p_init=0.8),
    )
    return {
        "fgsm": (FGSM(eps=eps), torchattacks.FGSM(model, eps)),
        "mim50": (
            MIM(eps=eps, step_size=eps / 5, steps=50, decay=1.0),
            torchattacks.MIFGSM(model, eps, eps / 5, 50, 1.0),
        ),
        "pgd100": (
            pgd(eps),
            torchattacks.PGD(model, eps, eps / 5, 100),
        ),
        "pgd100x5": (
            pgd(eps, restarts=5, any_iterate=True),
            torchattacks.MultiAttack([torchattacks.PGD(model, eps, eps / 5, 100)] * 5),
        ),
        "apgd_ce": (apgd(eps, "ce", 0), theirs["apgd_ce"]),
        "apgd_t": (apgd(eps, "dlr_targeted", 9), theirs["apgd_t"]),
        "fab_t": (FAB(eps=eps, steps=100, restarts=1, targets=9, **fab), theirs["fab_t"]),
        "square": (Square(eps=eps, queries=5000, restarts=1, p_init=0.8), theirs["square"]),
        "autoattack": (whole, torchattacks.MultiAttack(list(theirs.values()))),
    }


def measure(counting: Counting, craft: Callable[[], Tensor]) -> tuple[Tensor, float, float, float]:
    """Images, forwards and backwards per image, seconds of processor time."""
    counting.work |= {"forwards": 0, "backwards": 0}
    begun = time.process_time()
    moved = craft()
    seconds = time.process_time() - begun
    work = counting.work
    return moved, work["forwards"] / len(moved), work["backwards"] / len(moved), seconds


def robust(model: nn.Module, eps: float, moved: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Who is right on an image within eps; FAB's images may lie outside."""
    with torch.no_grad():
        right = model(moved).argmax(1) == labels
    return right | ((moved - images).abs().flatten(1).amax(1) > eps + 1e-6)


def compare(model: nn.Module, eps: float, images: Tensor, labels: Tensor, names: list[str]) -> None:
    """A line for each of the attacks named, or for all."""
    counting = Counting(
        model
    ).eval()  # torchattacks puts a training wrapper's model into train mode
    print("attack      robust  theirs  agree |    F      B  | theirs F     B  |      s  ratio")
    found = pairs(counting, eps)
    for name in names or found:
        ours, theirs = found[name]
        draws = Draws(0, torch.arange(len(images)))
        mine, f, b, s = measure(counting, lambda a=ours, d=draws: a(counting, images, labels, d))
        torch.manual_seed(0)
        other, their_f, their_b, their_s = measure(counting, lambda a=theirs: a(images, labels))
        left, right = (robust(model, eps, moved, images, labels) for moved in (mine, other))
        accuracies = f"{100 * left.float().mean():6.1f} {100 * right.float().mean():7.1f}"
        agreement = f"{100 * (left == right).float().mean():6.2f}"
        work = f"{f:6.0f} {b:6.0f} | {their_f:6.0f} {their_b:7.0f}"
        line = f"{name:11s} {accuracies} {agreement} | {work} | {s:7.2f} {their_s / s:5.2f}x"
        print(line, flush=True)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    torch.set_num_threads(1)
    loaded = load_digits()
    order = torch.randperm(len(loaded.target), generator=torch.Generator().manual_seed(0))
    small = (torch.tensor(loaded.images, dtype=torch.float32)[:, None] / 16)[order]
    large = F.interpolate(small, scale_factor=4).expand(-1, 3, -1, -1).contiguous()
    labels = torch.tensor(loaded.target)[order]
    print(f"{platform.machine()}, 1 thread, torch {torch.__version__}, torchattacks 3.5.1")
    for name, images, trained, eps, tested in (
        ("undefended", small, 0.0, SMALL, count),
        ("adversarially trained", small, EPS, EPS, count),
        ("adversarially trained, 32x32 RGB", large, SMALL, SMALL, max(count // 10, 1)),
    ):
        model = train(images[:-TEST], labels[:-TEST], trained)
        print(f"\n{name} ResNet-8, {tested} digits, eps {eps}, robust accuracy in %", flush=True)
        compare(model, eps, images[-TEST:][:tested], labels[-TEST:][:tested], sys.argv[2:])


if __name__ == "__main__":
    main()
