"""Folding batch normalisation: the same function and gradient, and who climbs it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from members import batch_of, method_of, one_a_method, training_of
from nets import NETS, input_gradient, lively
from torch import nn

from pipeline.core.batchnorm import attack_mode
from pipeline.core.ensemble import MeanProb, RandomOne
from pipeline.core.folding import folded
from pipeline.core.layers import Normalise
from pipeline.loading.modules import Foreign
from pipeline.methods.pgd_at import PgdAt
from pipeline.methods.ps_red import _Generated


@pytest.mark.parametrize("name", NETS)
def test_a_folded_net_is_the_same_function_and_leaves_the_net_alone(name: str) -> None:
    net, images = lively(name)
    net, images = net.double(), images.double()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fast = folded(net)
    assert torch.allclose(fast(images), net(images), rtol=1e-9, atol=1e-9)
    norms = [sum(isinstance(x, nn.BatchNorm2d) for x in m.modules()) for m in (net, fast)]
    assert norms[1] < max(norms[0], 1)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert folded(fast) is fast


def test_weights_stored_as_they_would_be_cast_give_the_same_bits() -> None:
    net, images = lively("resnet8")
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        stored, cast = folded(net, is_cast=True), folded(net)
        assert torch.equal(stored(images), cast(images))
    for halved, kind in ((stored, torch.bfloat16), (cast, torch.float32)):
        assert {m.weight.dtype for m in halved.modules() if isinstance(m, nn.Conv2d)} == {kind}
    assert all(p.dtype == torch.float32 for p in folded(net, is_cast=True).parameters())


def test_what_cannot_be_folded_is_the_models_own() -> None:
    net, images = lively("resnet8")
    assert folded(net.train()) is net
    bare = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert folded(bare) is bare
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False)).eval()
    assert torch.allclose(folded(plain)(images), plain(images), atol=1e-6)
    net.eval()
    pair = MeanProb([net, net])
    assert torch.allclose(folded(pair)(images), pair(images), atol=1e-5)
    assert folded(pair).members[0].head is net.head
    moody = RandomOne([net, bare])
    assert folded(moody)._generator is moody._generator and folded(moody).random


class Viewing(nn.Module):
    """A user's network, which calls `view` on activations as they lie in their own training."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16 * 64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [B, 10] of images of 8x8."""
        x = self.body(images)
        return self.head(x.view(len(x), -1))


def test_a_users_network_is_folded_in_its_own_layout() -> None:
    """Folded convolutions answer channel by channel otherwise, on which `view` ends in a trace."""
    net = Foreign(Normalise(3, [0.5] * 3, [0.2] * 3), Viewing()).eval()
    images = torch.rand(4, 3, 8, 8)
    fast = folded(net)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.modules())
    assert torch.allclose(fast(images), net(images), atol=1e-5)
    with pytest.raises(RuntimeError, match="view size"):
        folded(net.network)(images)


class Standardised(nn.Conv2d):
    """Every filter of mean 0 and deviation 1, whatever it is scaled by."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Activations [B, C, H, W]."""
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(images, weight, self.bias)


class Signed(nn.Conv2d):
    """The signs of its weights alone."""

    def _conv_forward(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return super()._conv_forward(input, weight.sign(), bias)


class Masked(nn.Conv2d):
    """Its weights times scores, which are parameters too."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.scores = nn.Parameter(torch.rand_like(self.weight))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Activations [B, C, H, W]."""
        return self._conv_forward(images, self.weight * self.scores, self.bias)


class Halved(nn.BatchNorm2d):
    """Batch normalisation by a rule of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Activations [B, C, H, W]."""
        return super().forward(input) / 2


class Sliced(nn.Module):
    """A network that takes parts of a Sequential by their places."""

    fixed = True  # a word of the user's own, which means nothing here

    def __init__(self, conv: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv, norm, nn.ReLU(), nn.Conv2d(4, 4, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [B, 4]."""
        return self.layers[3](self.layers[:3](images)).mean((2, 3))


@pytest.mark.parametrize("conv", [Standardised, Signed, Masked, nn.Conv2d, "hooked"])
@pytest.mark.parametrize("norm", [Halved, nn.BatchNorm2d])
def test_layers_of_somebodys_own_keep_their_function(conv: Any, norm: Any) -> None:
    first = (nn.Conv2d if conv == "hooked" else conv)(3, 4, 3)
    if conv == "hooked":
        first.register_forward_hook(lambda layer, given, made: made.square())
    net = Foreign(Normalise(3, [0.5] * 3, [0.2] * 3), Sliced(first, norm(4)))
    images = torch.rand(16, 3, 8, 8)
    net.train()(10 * images)  # statistics that are not those of a new layer
    net.eval()
    fast = folded(net)
    assert torch.allclose(fast(images), net(images), atol=1e-5)
    assert (fast is net) != (conv is nn.Conv2d and norm is nn.BatchNorm2d)


def test_generated_convolutions_are_folded_as_they_are_now() -> None:
    net, images = lively("resnet8")
    net, images = net.double(), images.double()
    victim = _Generated(net, embedding=8, unit=0, init="he").double()
    assert folded(victim.train()) is victim
    victim.eval().requires_grad_(False)
    fast = folded(victim)  # before the first forward, which generates
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.modules())
    logits = fast(images)
    assert float(logits.std()) > 0
    assert torch.allclose(logits, victim(images), rtol=1e-9, atol=1e-9)
    victim.embeddings.mul_(2)
    victim._is_fresh = False
    assert torch.equal(fast(images), logits) and not torch.allclose(victim(images), logits)
    assert torch.allclose(folded(victim)(images), victim(images), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NETS)
def test_examples_climb_a_folded_net_whose_gradient_is_the_nets_own(name: str) -> None:
    net, images = lively(name)
    net, images = net.double().train(), images.double()
    with attack_mode(net, "eval") as climbed:
        near, own = input_gradient(climbed, images), input_gradient(net, images)
    assert near.shape == own.shape and float(own.abs().max()) > 0
    assert torch.allclose(near, own, rtol=1e-7, atol=1e-9 * float(own.abs().max()))
    assert all(w.grad is None for w in net.parameters()) and net.training
    for mode in ("train_frozen", "train_update"):
        with attack_mode(net, mode) as climbed:
            assert climbed is net


def test_what_is_trained_is_never_folded() -> None:
    """The copy is of one moment: weights that move later are the net's alone."""
    net, images = lively("resnet8")
    with attack_mode(net, "eval") as climbed:
        before = climbed(images)
        with torch.no_grad():
            net.stem[0].weight.mul_(2)
        assert torch.equal(climbed(images), before)
        assert not torch.allclose(net(images), before)
    with attack_mode(net, "eval") as climbed:
        assert torch.allclose(climbed(images), net(images), atol=1e-4)


@pytest.mark.parametrize("entry", one_a_method())
def test_every_method_climbs_what_is_folded(entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No gradient passes through stored statistics; AUTE's peers are asked once and not climbed."""
    climbs: list[bool] = []
    plain = nn.BatchNorm2d.forward

    def forward(self: nn.BatchNorm2d, x: Any) -> Any:
        is_member = any(self is m for net in networks for m in net.modules())
        climbs.append(is_member and not self.training and torch.is_grad_enabled())
        return plain(self, x)

    method = method_of(entry)
    training = training_of(entry, method, 2 if method.joint else 1, attack_bn_mode="eval")
    networks = training.networks
    monkeypatch.setattr(nn.BatchNorm2d, "forward", forward)
    method.step(training, batch_of())
    assert climbs and not any(climbs)


def test_a_step_on_folded_examples_is_the_step_on_the_nets_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for fold in (folded, lambda net, **_: net):
        monkeypatch.setattr("pipeline.core.batchnorm.folded", fold)
        training = training_of("pgd_at", method_of("pgd_at"), 1, attack_bn_mode="eval")
        training.ensemble.double()
        batch = batch_of(32)
        batch = replace(batch, images=batch.images.double())
        crafted = training.craft(batch)
        found.append((crafted, PgdAt.step(method_of("pgd_at"), training, batch)))
    (near, loss), (own, expected) = found
    assert torch.allclose(near, own, atol=1e-9) and not torch.equal(near, batch.images)
    assert torch.allclose(loss, expected, atol=1e-9)
