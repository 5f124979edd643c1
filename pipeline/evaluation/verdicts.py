"""A victim under attack: per-image verdicts, and what the red flags need to know."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.core.ascent import gradient_in
from pipeline.core.draws import Draws, derive
from pipeline.core.ensemble import Combination, check_finite
from pipeline.core.folding import folded
from pipeline.core.losses import cross_entropy, margin
from pipeline.errors import UserError
from pipeline.evaluation.differences import compare_slopes
from pipeline.evaluation.surrogates import surrogates
from pipeline.loading import registry
from pipeline.loading.images import Split
from pipeline.plan import Plan
from pipeline.store.records import Arrays

# Images at once, where nobody asks for another number (`resources.evaluate.batch`): layers of so
# many fit a core's cache at demo. A random victim draws once a batch, so it always meets these.
BATCH = 300
OTHER_BATCH = 64  # in which the clean images are judged once more, to see whether it matters
SEED = 0  # of the draws: every victim meets the same ones
LIBRARY = "torchattacks"  # component of the attacks that it holds
STORED = "set"  # component of an attack that was crafted before, as a transfer set

Verdicts = dict[str, Tensor]


def images_at_once(plan: Plan) -> int:
    """What `resources.evaluate.batch` says, or the usual number."""
    return plan.entries.resource("evaluate", "batch")


def split_rows(rows: Tensor, spec: dict[str, Any], batch: int, random: bool) -> list[Tensor]:
    """The rows that an attack meets at once: a random victim and the library, which draw once a
    batch, always meet BATCH."""
    by_batch = random or spec["component"] == LIBRARY
    return [part for part in torch.split(rows, BATCH if by_batch else batch) if len(part)]


class Counted(nn.Module):
    """A model that counts the images it sees forwards and backwards."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.random = getattr(model, "random", False)
        self.work = {"forwards": 0, "backwards": 0}  # shared with a copy that an attack folds

    def forward(self, images: Tensor) -> Tensor:
        """The model's scores."""
        self.work["forwards"] += len(images)
        scores: Tensor = self.model(images)
        if scores.requires_grad:
            scores.register_hook(self._backward)  # type: ignore[no-untyped-call]
        return scores

    def _backward(self, gradient: Tensor) -> None:
        self.work["backwards"] += len(gradient)


class Evaluation:
    """A victim, its images and the verdicts on them.

    `standing` are the images that an attack may still be asked about: in a suite that stops when
    fooled, those that no earlier attack has fooled.
    """

    def __init__(
        self,
        victim: Combination,
        split: Split,
        rows: list[int],
        peers: bool = False,
        batch: int = BATCH,
    ) -> None:
        self.victim, self.peers = victim, peers
        self.batch = BATCH if victim.random else batch
        index = torch.tensor(rows, device=split.labels.device)
        self.ids, self.labels, self.images = index, split.labels[index], split.floats(index)
        self.clean = self._run_over(self._judge, self.images, self.batch)
        self.standing = torch.ones_like(self.labels, dtype=torch.bool)

    def _judge(self, images: Tensor, rows: Tensor) -> Verdicts:
        """right [B]: share of members right (0 or 1 unless random); margin, loss [B] of the victim.

        members [B, members]: what each member says, for accuracies of other combinations.
        """
        labels = self.labels[rows]
        with torch.no_grad():
            scores, logits_KBC = self.victim.heard(images)
            # argmax takes NaN for a class, so a broken network would pass for a robust one.
            check_finite(torch.cat([scores[None], logits_KBC]), images, self.victim.name)

            said_KB = logits_KBC.argmax(-1)
            right = (scores.argmax(-1) == labels).float()
            # The expected accuracy over the draw, instead of one lucky draw.
            if self.victim.random:
                right = (said_KB == labels).float().mean(0)

        verdicts = {
            "right": right,
            "margin": -margin(scores, labels),
            "loss": cross_entropy(scores, labels),
            "members": said_KB.T.to(torch.int16),
        }
        return verdicts | (_judge_peers(logits_KBC.softmax(-1), labels) if self.peers else {})

    def _run_over(
        self, function: Callable[[Tensor, Tensor], Verdicts], images: Tensor, size: int
    ) -> Verdicts:
        rows = torch.arange(len(images), device=images.device)
        parts = [function(images[r], r) for r in torch.split(rows, size)]
        return {k: torch.cat([p[k] for p in parts]) for k in parts[0]}

    def gradients(self, radius: float = 0) -> Verdicts:
        """Of clean images: whether cross-entropy has no or no finite gradient (zero_gradient), and
        the share of pixels where its sign is that of the margin's (agreement), [N]; with a radius
        also what `compare_slopes` says (slope_ratio)."""
        self.victim.reseed(SEED)
        (expected,) = surrogates(self.victim, "averaged")  # two draws are no difference

        def compare(images: Tensor, rows: Tensor) -> Verdicts:
            images, labels = images.clone().requires_grad_(), self.labels[rows]
            scores = self.victim(images)

            slope = gradient_in(images, cross_entropy(scores, labels), keep_graph=True)
            size = slope.flatten(1).abs().amax(1)
            other = gradient_in(images, margin(scores, labels))
            same = (slope.sign() == other.sign()).flatten(1).float().mean(1)

            compared = {"zero_gradient": ~(size > 0) | ~size.isfinite(), "agreement": same}
            if radius:
                compared["slope_ratio"] = compare_slopes(expected, images.detach(), labels, radius)
            return compared

        return self._run_over(compare, self.images, self.batch)

    def flips(self) -> int:
        """Clean images whose verdict is another one in batches of another size."""
        whole = min(self.batch, len(self.images))
        other = OTHER_BATCH if whole > OTHER_BATCH else max(whole // 2, 1)
        again = self._run_over(self._judge, self.images, other)
        return int((again["right"] != self.clean["right"]).sum())

    def outputs(self) -> str:
        """What the victim's scores are, or any member's: probs, else log_probs or logits."""
        self.victim.reseed(SEED)
        with torch.no_grad():
            scores, logits_KBC = self.victim.heard(self.images[: self.batch])
        if any(map(_are_probs, [scores, *logits_KBC])):
            return "probs"
        is_log = float(scores.max()) <= 0 and bool((scores.logsumexp(1).abs() < 1e-4).all())
        return "log_probs" if is_log else "logits"

    def attack(self, name: str, spec: dict[str, Any], seed: int = SEED) -> Arrays:
        """Verdicts under one attack, on the images that are right before it."""
        return self.crafted(name, spec, seed)[1]

    def crafted(self, name: str, spec: dict[str, Any], seed: int = SEED) -> tuple[Tensor, Arrays]:
        """Adversarial images, clean where no attack was asked for, and their verdicts."""
        adversarial, kept, met, work = self._craft(name, spec, seed)
        verdicts = {**kept, **self._measure_sizes(adversarial), **met}
        # Fooled by an earlier attack of a suite that stops when fooled counts as fooled here too.
        verdicts["right"] = torch.where(self.standing, kept["right"], 0)
        arrays = {"work": work, **{k: v.cpu().numpy() for k, v in verdicts.items()}}
        return adversarial, arrays

    def _craft(
        self, name: str, spec: dict[str, Any], seed: int
    ) -> tuple[Tensor, Verdicts, Verdicts, np.ndarray]:
        """Adversarial images, their verdicts, which were asked about and which of all came back
        unchanged, and forwards and backwards."""
        attack = registry.build("attacks", spec)
        self.victim.reseed(derive(seed, name))  # a resumed record goes on as an unbroken one
        # What climbs needs the function alone, up to rounding; verdicts are the victim's own.
        models = [Counted(folded(m)) for m in surrogates(self.victim, spec["surrogate"])]

        # Clean images and their verdicts stand until something worse for the victim is found.
        adversarial = self.images.clone()
        kept = {key: value.clone() for key, value in self.clean.items()}
        # Unchanged by an attack: an image that it moved may be dropped all the same, where more
        # members of a random victim are right on it than before.
        asked, unchanged = torch.zeros_like(self.standing), torch.ones_like(self.standing)

        for number, model in enumerate(models):
            left = self._find_left(kept["right"])
            for rows in split_rows(left, spec, self.batch, self.victim.random):
                draws = Draws(derive(seed, name, number), self.ids[rows])
                candidates = attack(model, self.images[rows], self.labels[rows], draws)
                _check_result(candidates, self.images[rows], spec["component"])
                self.take(candidates, rows, adversarial, kept)
                asked[rows] = True
                unchanged[rows] &= (candidates == self.images[rows]).flatten(1).all(1)

        work = np.array([list(m.work.values()) for m in models]).sum(0)
        return adversarial, kept, {"asked": asked, "unchanged": unchanged}, work

    def stored(self, adversarial: Tensor) -> Arrays:
        """Verdicts on images that were crafted before, each of its own clean image."""
        kept = {key: value.clone() for key, value in self.clean.items()}
        result = self.images.clone()
        everyone = torch.arange(len(self.images), device=self.images.device)
        for rows in torch.split(everyone, self.batch):
            self.take(adversarial[rows], rows, result, kept)
        verdicts = {**kept, **self._measure_sizes(result), "asked": torch.ones_like(self.standing)}
        return {"work": np.zeros(2, int), **{k: v.cpu().numpy() for k, v in verdicts.items()}}

    def _find_left(self, right: Tensor) -> Tensor:
        """Rows to attack: where one member is chosen, what the others would say counts too."""
        lost = (self.clean["right"] == 0) & self.victim.selects
        return (self.standing & ((right > 0) | lost)).nonzero()[:, 0]

    def take(self, candidates: Tensor, rows: Tensor, adversarial: Tensor, kept: Verdicts) -> None:
        """Keep what is no better for the victim than what it has seen."""
        verdict = self._judge(candidates, rows)
        # Equals too: an image that an attack moved in vain still shows how far it went.
        worse = verdict["right"] <= kept["right"][rows]
        adversarial[rows[worse]] = candidates[worse]
        for part, values in kept.items():
            values[rows[worse]] = verdict[part][worse]

    def _measure_sizes(self, adversarial: Tensor) -> Verdicts:
        """How far the images went, [N]: in norms, in pixels, and beyond the box."""
        change = (adversarial - self.images).flatten(1)
        beyond = (adversarial - adversarial.clamp(0, 1)).flatten(1)
        places = (adversarial != self.images).any(1).flatten(1)
        return {
            "linf": change.abs().amax(1),
            "l2": change.norm(dim=1),
            "l1": change.abs().sum(1),
            "pixels": places.sum(1).to(torch.int32),
            "outside": beyond.abs().amax(1),
            "unchanged": (change == 0).all(1),
        }


def _are_probs(scores: Tensor) -> bool:
    """Whether scores [B, classes] are probabilities and not their logarithms or logits."""
    return float(scores.min()) >= 0 and bool(((scores.sum(1) - 1).abs() < 1e-5).all())


def _check_result(candidates: object, images: Tensor, attack: str) -> None:
    """Raise UserError unless an attack returned what its contract says."""
    if not isinstance(candidates, Tensor):
        found = f"a {type(candidates).__name__}"
    elif (candidates.shape, candidates.dtype) != (images.shape, images.dtype):
        found = f"{candidates.dtype} {tuple(candidates.shape)}"
    elif candidates.requires_grad:
        found = "images with a gradient (detach them)"
    else:
        return
    raise UserError(
        f"attacks/{attack}.py returns {found}, not images {images.dtype} {tuple(images.shape)}"
    )


def _judge_peers(probs_KBC: Tensor, labels: Tensor) -> Verdicts:
    """Of AUTE's motivation: what the mean probability of all other members answers, [B, members];
    probability margins p_y - max p_k of the mean (gap, [B]) and of every member ([B, members])."""
    # The sum in place of the mean: argmax does not see the factor.
    others_KBC = probs_KBC.sum(0) - probs_KBC
    gaps_KB = [-margin(probs, labels) for probs in probs_KBC]
    return {
        "peers": others_KBC.argmax(-1).T.to(torch.int16),
        "gap": -margin(probs_KBC.mean(0), labels),
        "gaps": torch.stack(gaps_KB, 1),
    }
