"""What every net answers, whatever the precision that it runs in."""

import torch
from members import batch_of, method_of, training_of
from nets import TINY, build, draw_images


def test_logits_are_float32_under_autocast_and_so_is_their_softmax():
    net, images = build(TINY).eval(), draw_images()
    torch.nn.init.zeros_(net.head.weight)
    net.head.bias.data = torch.linspace(0, 7, 10)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = net(images)
        assert found.dtype == torch.float32
        assert net.features(images, net.depths).dtype == torch.float32
        # in bfloat16 no number lies between 0.496 and 0.5
        sure = found.softmax(1).amax(1)
    assert torch.allclose(sure, torch.linspace(0, 7, 10).softmax(0)[-1], atol=2e-3)
    assert sure.dtype == torch.float32 and 0.5 < float(sure[0]) < 1


def test_a_nets_own_precision_is_left_as_it_is():
    for dtype in (torch.float32, torch.float64):
        net, images = build(TINY).eval().to(dtype), draw_images().to(dtype)
        assert net(images).dtype == dtype
        assert torch.equal(net(images), net.head(net.pooled(images)))


def test_members_with_an_evaluator_answer_in_float32_too():
    training = training_of("soe_released", method_of("soe_released"), 1)
    with torch.autocast("cpu", torch.bfloat16):
        logits, confidence = training.members[0].answer(batch_of().images)
    assert logits.dtype == confidence.dtype == torch.float32
