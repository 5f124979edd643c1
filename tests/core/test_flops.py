"""FLOPs against counts by hand."""

import subprocess
import sys

import torch
from projects import ROOT
from torch import nn

from pipeline.core.flops import FlopCount

CONV = 2 * 3 * 9 * 36  # 1 to 3 channels, 3x3, on a 6x6 map: operations of one image
LINEAR = 2 * 3 * 36 * 10


def conv_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10))


def test_a_training_step_costs_a_forward_and_two_backwards_save_the_images():
    counter = FlopCount()
    with counter:
        conv_net()(torch.rand(4, 1, 8, 8)).sum().backward()
    assert counter.total == 4 * (CONV + LINEAR + (CONV + 2 * LINEAR))


def test_an_attack_step_costs_a_forward_and_the_backward_to_the_images():
    images, counter = torch.rand(4, 1, 8, 8, requires_grad=True), FlopCount()
    net = conv_net()
    with counter:
        torch.autograd.grad(net(images).sum(), images)
    assert counter.total == 4 * 2 * (CONV + LINEAR)
    with counter, torch.no_grad():
        net(images)
    assert counter.total == 4 * 3 * (CONV + LINEAR)


def test_a_grouped_convolutions_gradient_costs_what_its_forward_does():
    """torch's formula takes every channel for one of every group: eight times too much here."""
    for groups in (1, 2, 8):
        net = nn.Conv2d(8, 8, 3, groups=groups)
        images, forward, whole = (
            torch.rand(4, 8, 8, 8, requires_grad=True),
            FlopCount(),
            FlopCount(),
        )
        with forward, torch.no_grad():
            net(images)
        with whole:
            net(images).sum().backward()
        assert forward.total == 4 * 2 * 8 * (8 // groups) * 9 * 36
        assert whole.total == 3 * forward.total


def test_counting_changes_no_bit():
    net, images = conv_net(), torch.rand(4, 1, 8, 8)
    plain = torch.autograd.grad(net(images).sum(), list(net.parameters()))
    with FlopCount():
        counted = torch.autograd.grad(net(images).sum(), list(net.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(plain, counted, strict=True))


LEAN = """
import sys
import torch
from torch import nn
import pipeline.evaluate
from pipeline.core.ascent import gradient_in
from pipeline.core.flops import count_macs
net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, 10))
count_macs(net, 1, 8)
images = torch.rand(2, 1, 8, 8, requires_grad=True)
gradient_in(images, net(images).square().sum(1))
print([name for name in ("torch._dynamo", "scipy.stats", "sympy") if name in sys.modules])
"""


def test_an_evaluation_imports_no_compiler_and_no_library_that_it_does_not_use():
    """They took 3.5 of a short job's 6.9 seconds."""
    done = subprocess.run([sys.executable, "-c", LEAN], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr
