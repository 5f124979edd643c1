"""Other projects' networks under our names: the map is right where the logits are equal."""

import re
import zipfile
from pathlib import Path
from typing import Any

import others
import pytest
import torch
from torch import Tensor, nn

from pipeline.archs.mobilenet_v2 import MobileNetV2
from pipeline.archs.preact_resnet18 import PreActResNet18
from pipeline.archs.resnet18 import ResNet18
from pipeline.archs.resnet20 import ResNet20
from pipeline.archs.small_cnn import SmallCnn
from pipeline.archs.vgg16 import Vgg
from pipeline.archs.wrn34_10 import WideResNet
from pipeline.errors import UserError
from pipeline.loading import fitting, foreign
from pipeline.loading.layouts import AUTO, LAYOUTS, OWN
from pipeline.plan.graph.outside import NAMES
from pipeline.store.files import sha256_of

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]
RESNET18 = ResNet18(stem="cifar", stem_bias=False, init="default")
IMAGENET = ResNet18(stem="imagenet", stem_bias=False, init="default")
RESNET20 = ResNet20(blocks=3, width=16, shortcut="conv", leaky=0)
PREACT = PreActResNet18(stem="cifar", stem_bn=False, final_bn=True)
WIDE = WideResNet(depth=16, widen=2, activation="relu")
VGG = Vgg(depth=16, conv_bias=True)
THEIRS: dict[str, tuple[str, Any, Any]] = {  # layout, our arch, their network
    "kuangliu ResNet-18": ("cifar", RESNET18, lambda: others.CifarResNet([64, 128, 256, 512], 2)),
    "DVERGE ResNet-20": ("cifar", RESNET20, lambda: others.CifarResNet([16, 32, 64], 3)),
    "torchvision ResNet-18": ("torchvision", IMAGENET, others.ImageNetResNet),
    "Rice PreAct": ("preact", PREACT, others.PreActResNet),
    "TRADES WRN": ("trades", WIDE, lambda: others.Wide(2, 2, True)),
    "RobustBench WRN": ("trades", WIDE, lambda: others.Wide(2, 2, False)),
    "kuangliu VGG": ("vgg", VGG, others.Vgg),
    "kuangliu MobileNetV2": ("mobilenet", MobileNetV2(), others.Mobile),
    "TRADES SmallCNN": ("small_cnn", SmallCnn(dropout=0.5), others.Small),
}


def fresh(arch: Any, mean: list[float] = MEAN, std: list[float] = STD) -> nn.Module:
    """A network of ours, in evaluation mode."""
    is_small = isinstance(arch, SmallCnn)
    channels, size = (1, 28) if is_small else (3, 32)
    found = arch.build(
        classes=10, channels=channels, size=size, mean=mean[:channels], std=std[:channels]
    )
    return found.eval()


def take_in(loaded: Any, arch: Any, members: int = 1, **spec: Any) -> list[nn.Module]:
    """Fresh members with a file's weights."""
    path = Path("theirs.pt")
    torch.save(loaded, path)
    nets = [fresh(arch) for _ in range(members)]
    fitting.adopt(nets, {"sha256": sha256_of(path), **spec}, [str(path)])
    return nets


def images(arch: Any) -> Tensor:
    torch.manual_seed(0)
    return torch.rand(2, 1, 28, 28) if isinstance(arch, SmallCnn) else torch.rand(2, 3, 32, 32)


def normalised(x: Tensor) -> Tensor:
    return others.Normaliser(MEAN[: x.shape[1]], STD[: x.shape[1]])(x)


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)


@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_logits_are_theirs_under_the_layouts_name_and_under_auto(name):
    layout, arch, build = THEIRS[name]
    theirs, x = others.settle(build()), images(arch)
    for names in (layout, AUTO):
        (ours,) = take_in(theirs.state_dict(), arch, names=names)
        wanted = theirs(normalised(x))
        assert wanted.std() > 1e-3  # else any two networks were equal
        torch.testing.assert_close(ours(x), wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_dverges_three_members_with_normalisers_need_no_word():
    nets = [
        others.settle(others.Wrapped(others.CifarResNet([16, 32, 64], 3), MEAN, STD))
        for _ in range(3)
    ]
    loaded = {f"model_{i}": network.state_dict() for i, network in enumerate(nets)}
    ours, x = take_in(loaded, RESNET20, 3, names=AUTO), images(RESNET20)
    for mine, theirs in zip(ours, nets, strict=True):
        torch.testing.assert_close(mine(x), theirs(x), rtol=1e-4, atol=1e-4)
    assert not torch.equal(ours[0](x), ours[1](x))


@torch.no_grad()
def test_trs_has_a_file_for_each_member_and_a_sequential_normaliser():
    nets, paths = [], []
    for i in range(2):
        body = others.CifarResNet([16, 32, 64], 3)
        nets.append(others.settle(nn.Sequential(others.Normaliser(MEAN, STD), body)))
        paths.append(f"checkpoint.pth.tar.{i}")
        torch.save({"epoch": 3, "state_dict": nets[i].state_dict()}, paths[i])
    ours = [fresh(RESNET20) for _ in paths]
    sums = [sha256_of(Path(path)) for path in paths]
    fitting.adopt(ours, {"sha256": sums, "names": AUTO}, paths)
    for mine, theirs in zip(ours, nets, strict=True):
        x = images(RESNET20)
        torch.testing.assert_close(mine(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_members_that_stand_numbered_in_one_mapping_are_told_apart():
    nets = [fresh(RESNET20) for _ in range(2)]
    found = take_in(nn.ModuleDict({"models": nn.ModuleList(nets)}).state_dict(), RESNET20, 2)
    for mine, theirs in zip(found, nets, strict=True):
        assert torch.equal(mine.head.weight, theirs.head.weight)
    with pytest.raises(UserError, match="theirs.pt: holds 2 networks for 3 members"):
        take_in({str(i): net.state_dict() for i, net in enumerate(nets)}, RESNET20, 3)


def test_one_of_several_networks_is_named_and_never_chosen():
    one, two = (fresh(RESNET20).state_dict() for _ in range(2))
    loaded = {"state_dict": one, "ema": two, "epoch": 4, "optimizer": {"state": {}}}
    with pytest.raises(UserError, match="holds several networks, state_dict, ema; name one by"):
        take_in(loaded, RESNET20)
    (found,) = take_in(loaded, RESNET20, part="ema")
    assert torch.equal(found.state_dict()["head.weight"], two["head.weight"])


def test_drop_leaves_out_what_is_no_part_of_the_network():
    own = fresh(RESNET20).state_dict()
    extra = {"projector.0.weight": torch.ones(3, 3)}
    with pytest.raises(UserError, match=r"1 unexpected \(projector.0.weight\)"):
        take_in(own | extra, RESNET20)
    (found,) = take_in(own | extra, RESNET20, drop=["projector."])
    assert torch.equal(found.state_dict()["head.bias"], own["head.bias"])
    with pytest.raises(UserError, match="no tensor begins with proj2"):
        take_in(own | extra, RESNET20, drop=["projector.", "proj2"])


def test_the_layout_that_fits_is_proposed_and_one_that_does_not_is_not_taken():
    theirs = others.CifarResNet([16, 32, 64], 3).state_dict()
    with pytest.raises(
        UserError, match="107 missing.*107 unexpected.*write names: cifar, which fits"
    ):
        take_in(theirs, RESNET20)
    with pytest.raises(
        UserError, match="no known layout fits; nearest, cifar: .* of another shape"
    ):
        take_in(theirs | {"linear.bias": torch.ones(100)}, RESNET20, names=AUTO)
    with pytest.raises(UserError, match="no known layout fits; nearest, preact"):
        take_in(others.PreActResNet().state_dict() | {"more": torch.ones(2)}, PREACT, names=AUTO)
    with pytest.raises(UserError, match="no known layout fits"):  # basic blocks are no preact ones
        take_in(others.PreActResNet().state_dict(), RESNET18, names=AUTO)


def test_the_plan_knows_the_layouts():
    assert (OWN, AUTO, *LAYOUTS) == NAMES


def test_an_averaged_models_count_is_no_weight():
    net = fresh(RESNET20)
    averaged = torch.optim.swa_utils.AveragedModel(net).state_dict()
    (found,) = take_in(averaged, RESNET20)
    assert torch.equal(found.state_dict()["head.weight"], net.state_dict()["head.weight"])


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "complex64"])
def test_numbers_that_no_network_has_are_refused_by_name(kind):
    weights = fresh(RESNET20).state_dict()
    weights["head.bias"] = weights["head.bias"].to(getattr(torch, kind))
    with pytest.raises(UserError, match=f"tensor head.bias is {kind}; save a network of float32"):
        take_in(weights, RESNET20)


@pytest.mark.parametrize("values", [[0.5, 0.4], [0.5, 0.4, 0.3, 0.2]])
def test_a_normaliser_of_another_number_of_channels_is_refused_by_name(values):
    loaded = fresh(RESNET20).state_dict() | {"normalizer.mean": torch.tensor(values)}
    says = re.escape(f"normalizer.mean is {values}, the entry's mean is [")
    with pytest.raises(UserError, match=says) as raised:
        take_in(loaded, RESNET20)
    assert "\n" not in str(raised.value)


def test_a_normalisers_one_value_is_that_of_every_channel():
    net = fresh(RESNET20, mean=[0.5] * 3)
    loaded = net.state_dict() | {"normalizer.mean": torch.tensor([0.5])}
    torch.save(loaded, "theirs.pt")
    fitting.adopt([net], {"sha256": [sha256_of(Path("theirs.pt"))]}, ["theirs.pt"])
    with pytest.raises(UserError, match=r"normalizer.mean is \[0.5\], the entry's mean is"):
        take_in(loaded, RESNET20)


def test_an_old_file_of_torch_that_is_cut_anywhere_is_refused_in_one_line():
    path = Path("old.pt")
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    assert torch.equal(foreign.read(path)[0]["a"], torch.ones(2))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="old.pt: cannot be read as plain weights") as raised:
            foreign.read(path)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("steps", [b"}]]s.", b"K\x01Q."], ids=["key a list", "storage a number"])
def test_a_rotten_file_of_torch_is_refused_in_one_line(steps):
    with zipfile.ZipFile("net.pt", "w") as file:
        file.writestr("net/data.pkl", b"\x80\x02" + steps)
        file.writestr("net/version", "3\n")
    with pytest.raises(UserError, match="net.pt: cannot be read as plain weights") as raised:
        foreign.read(Path("net.pt"))
    assert "\n" not in str(raised.value)
