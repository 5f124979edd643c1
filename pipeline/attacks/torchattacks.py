"""Any attack of torchattacks 3.5.1 as a params entry: `base: torchattacks, class: Pixle, ...`."""

import inspect
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.contracts.fields import Arguments
from pipeline.core.ascent import is_random
from pipeline.core.draws import Draws
from pipeline.core.norms import per_image
from pipeline.errors import UserError

# What returns its last iterate needs no draw of a random model to count as a success.
LAST_ITERATE = {"FGSM", "BIM", "PGD", "PGDL2", "MIFGSM", "NIFGSM", "TIFGSM", "DIFGSM", "EOTPGD"}
LAST_ITERATE |= {"TPGD", "RFGSM", "FFGSM", "VMIFGSM", "VNIFGSM", "SINIFGSM", "UPGD", "PGDRS"}
LAST_ITERATE |= {"PGDRSL2", "GN", "Jitter", "PIFGSM", "PIFGSMPP", "SPSA", "VANILA"}
# Budgets of AutoAttack's parts, which its constructor does not take
PARTS = {"AutoAttack": ("steps", "n_queries")}
NORMS = {"linf": "Linf", "l2": "L2"}  # as the library writes them
RADII = ("eps", "max_epsilon")  # what its constructors call a radius
COLOURED = {"TIFGSM", "PIFGSM", "PIFGSMPP"}  # their kernels are of three channels
# What a library's code raises on settings or images that it was not written for
FAULTS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)


@dataclass(frozen=True, kw_only=True)
class Torchattacks:
    """`class` with its constructor's `arguments`; others are torchattacks' defaults.

    AutoAttack also takes `steps` (of APGD, APGD-T and FAB) and `n_queries` (of Square).
    `norm` is the ball of its `eps`, handed on to the classes that know several, and none where
    nothing bounds the result; PIFGSM's `max_epsilon` is written `eps`, too. Combinations known to
    say nothing are refused unless `as_published`: CW on log-probabilities, and searches that take
    one draw of a random model for a success.
    An image of which a class makes NaN (DeepFool divides 0 by 0 where a net is flat) stays clean.
    The model keeps its modes and gradients and the generators their states; these attacks draw
    for a whole batch, so their results, unlike ours, depend on it.
    """

    class_: str
    norm: Literal["linf", "l2", "none"]
    as_published: bool
    arguments: Arguments

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Perturbed images [B, C, H, W] in the box, detached."""
        attack_class = self._find()
        if self.class_ in COLOURED and images.shape[1] != 3:
            self._refuse(f"knows images of 3 channels only, these have {images.shape[1]}")
        if not self.as_published:
            self._refuse_inert(model, images)

        # These attacks draw from the global generators: seeded for a while, from our own draws.
        seed = int(draws.integers(2**31, 1)[0, 0])
        with _untouched(model), _seeded(seed):
            try:
                attack = self._build(attack_class, _Frozen(model, images.device), seed)
                with torch.enable_grad():
                    found = attack(images.clone(), labels.clone())
            except FAULTS as error:
                said = " ".join(str(error).split())
                self._refuse(f"cannot attack this victim ({type(error).__name__}: {said})")

        moved: Tensor = found.detach().to(images)
        return self._keep_lost(moved, images).clamp(0, 1)

    def _keep_lost(self, moved: Tensor, images: Tensor) -> Tensor:
        """The clean image where an attack's own is no number, and a line that says how many."""
        lost = moved.isnan().flatten(1).any(1)
        if lost.any():
            count = f"{int(lost.sum())} of {len(images)} images"
            print(f"torchattacks' {self.class_} made NaN of {count}, which stay clean", flush=True)
        return torch.where(per_image(lost, images), images, moved)

    def _find(self) -> Any:
        """The class; raises UserError naming an unknown one, or an argument that it has not."""
        import torchattacks  # its import takes a second, and most evaluations do without

        found = getattr(torchattacks, self.class_, None)
        if not inspect.isclass(found):
            raise UserError(f"params.yaml: attacks: torchattacks has no class {self.class_!r}")

        # The first parameter is the model; the norm is a key of its own.
        settings = [s for s in list(inspect.signature(found).parameters)[1:] if s != "norm"]
        known = ["eps" if s in RADII else s for s in settings] + [*PARTS.get(self.class_, ())]
        for name in self.arguments:
            if name not in known:
                self._refuse(f"has no argument {name!r}: it has {', '.join(known)}")

        self._check_ball(found, bounded="eps" in known)
        return found

    def _check_ball(self, found: Any, *, bounded: bool) -> None:
        """Raise UserError unless the norm is one of the class's, and its radius is stated."""
        several = "norm" in inspect.signature(found).parameters
        own = ["l2" if self.class_.endswith("L2") else "linf"] if bounded else ["none"]
        own = list(NORMS) if several else own
        if self.norm not in own:
            self._refuse(f"has no norm {self.norm}: write norm: {' or '.join(own)}")
        if bounded and "eps" not in self.arguments:
            self._refuse("needs its radius: add eps")

    def _build(self, attack_class: Any, model: nn.Module, seed: int = 0) -> Any:
        """The attack, its parts' budgets set on those parts that have them."""
        names = PARTS.get(self.class_, ())
        known = inspect.signature(attack_class).parameters
        radius = next((name for name in RADII if name in known), "eps")
        own = {radius if n == "eps" else n: v for n, v in self.arguments.items() if n not in names}
        if "norm" in known:
            own["norm"] = NORMS[self.norm]
        if "seed" in known and known["seed"].default is None:  # or it would be the time of day
            own = {"seed": seed, **own}

        attack = attack_class(model, **own)
        for name in (name for name in self.arguments if name in names):
            # The library's AutoAttack fixes these inside its parts, out of its constructor's reach.
            for part in (p for p in attack._autoattack.attacks if hasattr(p, name)):
                setattr(part, name, self.arguments[name])
        return attack

    def _refuse(self, problem: str) -> NoReturn:
        raise UserError(f"params.yaml: attacks: torchattacks' {self.class_} {problem}")

    def _refuse_inert(self, model: nn.Module, images: Tensor) -> None:
        problem = None
        if is_random(model) and self.class_ not in LAST_ITERATE:
            problem = "takes one lucky draw of a random model for a success"
        elif self.class_ == "CW" and _are_log_probabilities(model, images):
            problem = "returns the clean image on log-probabilities (its rival is a masked 0)"
        if problem:
            self._refuse(f"{problem}: take an own attack, such as cw_l2, or say as_published: true")


class _Frozen(nn.Module):
    """The model as torchattacks may see it: no modes to switch, outputs it may write into."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self._call = [model]  # in a list: no submodule, so no mode and no gradient reaches it
        self._where = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        """Scores [B, classes], a copy."""
        if images.requires_grad:
            # On a GPU a gradient lies channel by channel, on which some classes call `view`.
            images = images.view_as(images)
            images.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
        scores: Tensor = self._call[0](images)
        return scores.clone()


def _are_log_probabilities(model: nn.Module, images: Tensor) -> bool:
    with torch.no_grad():
        scores = model(images[:1])
    return bool((scores <= 0).all()) and abs(float(scores.logsumexp(1))) < 1e-4


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Leave the parameters' gradients as they were."""
    before = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    for parameter, _, _ in before:
        parameter.grad = None
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, gradient, wanted in before:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global generators, seeded for a while."""
    # The library draws from Python's, numpy's and torch's generators.
    ours, theirs = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices), _repeatable():
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(theirs)
            random.setstate(ours)


@contextmanager
def _repeatable() -> Iterator[None]:
    """On a GPU sums in one order, for a while: the gradient of a resized image has none of its own
    (DIFGSM)."""
    if not torch.cuda.is_available():
        yield
        return
    # The public function imports a compiler, and what is not filled need not be.
    memory: Any = torch.utils.deterministic
    before, filled = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    torch._C._set_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch._C._set_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filled
