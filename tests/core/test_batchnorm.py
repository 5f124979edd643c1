"""Batch normalisation: the mode of crafting, and statistics estimated again."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.core import batchnorm
from pipeline.core.batchnorm import attack_mode


def network() -> nn.Module:
    torch.manual_seed(0)
    first = nn.BatchNorm2d(2, momentum=0.3)
    return nn.Sequential(first, nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.ReLU())


def shown(count: int = 50) -> Tensor:
    return torch.rand(count, 2, 5, 5, generator=torch.Generator().manual_seed(1)) * 3 - 1


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {n: b.clone() for n, b in model.named_buffers() if b.is_floating_point()}


def test_cumulative_statistics_are_those_of_the_data_with_a_short_last_batch():
    model, images = network(), shown()
    batchnorm.reestimate(model, images.split(16), model)  # 16, 16, 16 and 2 images
    assert torch.allclose(model[0].running_mean, images.mean((0, 2, 3)), atol=1e-6)
    within = [16 * b.var((0, 2, 3)) for b in images[:48].split(16)] + [
        2 * images[48:].var((0, 2, 3))
    ]
    assert torch.allclose(model[0].running_var, torch.stack(within).sum(0) / 50, atol=1e-6)
    assert not any(m.training for m in model.modules())
    assert model[0].momentum == 0.3


def test_cumulative_statistics_do_not_depend_on_the_order_of_batches():
    one, other = network(), network()
    parts = list(shown().split(16))
    batchnorm.reestimate(one, parts, one)
    batchnorm.reestimate(other, parts[::-1], other)
    for name, value in statistics(one).items():
        assert torch.allclose(value, statistics(other)[name], atol=1e-6)


def test_statistics_before_the_pass_and_gradients_play_no_part():
    one, other = network(), network()
    with torch.no_grad():
        other[0].running_mean.fill_(5)
        other[2].running_var.fill_(9)
    for model in (one, other):
        batchnorm.reestimate(model, shown().split(16), model)
    assert all(torch.equal(v, statistics(other)[n]) for n, v in statistics(one).items())
    assert all(p.grad is None for p in one.parameters())


def test_median_of_ema_is_the_median_of_a_trace_from_0_and_1():
    model, images = network(), shown(64)
    batchnorm.median_of_ema(model, images.split(16), model)
    mean, variance, means, variances = torch.zeros(2), torch.ones(2), [], []
    for part in images.split(16):
        mean = 0.7 * mean + 0.3 * part.mean((0, 2, 3))
        variance = 0.7 * variance + 0.3 * part.var((0, 2, 3))
        means.append(mean.numpy())
        variances.append(variance.numpy())
    assert np.allclose(model[0].running_mean, np.median(means, axis=0), atol=1e-6)
    assert np.allclose(model[0].running_var, np.median(variances, axis=0), atol=1e-6)
    assert not any(m.training for m in model.modules())


def dropping() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten())


@pytest.mark.parametrize("mode", ["eval", "train_frozen", "train_update"])
@pytest.mark.parametrize("before", [True, False])
def test_crafting_modes_use_and_move_the_statistics_they_say(mode, before):
    net, images = dropping().train(before), torch.rand(5, 1, 4, 4)
    net[2].eval()
    buffers = {n: b.clone() for n, b in net.named_buffers()}
    with attack_mode(net, mode):
        assert net[1].training == (mode != "eval")
        normalised = net[1](net[0](images))
    centred = normalised.mean((0, 2, 3)).abs().max() < 1e-5
    assert centred == (mode != "eval")
    moved = any(not torch.equal(b, buffers[n]) for n, b in net.named_buffers())
    assert moved == (mode == "train_update")
    assert [m.training for m in net] == [before, before, False, before]
    assert net.training == before and net[1].track_running_stats


def test_an_attack_that_fails_leaves_the_modes_as_they_were():
    net = dropping().train()
    with pytest.raises(ZeroDivisionError), attack_mode(net, "train_frozen"):
        raise ZeroDivisionError
    assert net.training and net[1].training and net[1].track_running_stats
