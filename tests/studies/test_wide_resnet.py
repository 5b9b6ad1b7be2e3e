"""The wide residual network has the authors' parameters, structure and initialisation, and the noise in its blocks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparseout
from sparseout.studies.models.wide_resnet import PLACEMENTS, WideResNet


def network(depth=10, width=1, channels=3, classes=10, noise=nn.Identity, placement="before-conv2"):
    torch.manual_seed(0)
    return WideResNet(depth, width, channels, classes, noise, placement)


# 28-10 and 40-4 for ten classes are printed in the authors' logs; 100 classes have 90 * 641 more.
@pytest.mark.parametrize(
    ("depth", "width", "classes", "count"), [(28, 10, 10, 36_479_194), (28, 10, 100, 36_536_884), (40, 4, 10, 8_949_210)]
)
def test_the_official_parameter_counts(depth, width, classes, count):
    assert sum(p.numel() for p in network(depth, width, classes=classes).parameters()) == count


def official(images, state, blocks):
    """The authors' own functions, in training mode."""

    def rectified(x, norm):
        return F.relu(F.batch_norm(x, None, None, state[f"{norm}.weight"], state[f"{norm}.bias"], training=True))

    x = F.conv2d(images, state["conv.weight"], padding=1)
    for group, stride in enumerate((1, 2, 2)):
        for number in range(blocks):
            name, step = f"groups.{group}.{number}", stride if number == 0 else 1
            o1 = rectified(x, f"{name}.norm1")
            o2 = rectified(F.conv2d(o1, state[f"{name}.conv1.weight"], stride=step, padding=1), f"{name}.norm2")
            z = F.conv2d(o2, state[f"{name}.conv2.weight"], padding=1)
            shortcut = state.get(f"{name}.shortcut.weight")
            x = z + (x if shortcut is None else F.conv2d(o1, shortcut, stride=step))
    x = rectified(x, "norm")
    return F.linear(F.avg_pool2d(x, x.shape[-1]).flatten(1), state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize(("depth", "width", "channels", "size"), [(10, 2, 3, 32), (16, 1, 1, 8), (10, 1, 2, 11)])
def test_it_computes_what_the_official_network_does(depth, width, channels, size):
    ours = network(depth, width, channels, classes=7).double()
    images = torch.randn(3, channels, size, size, dtype=torch.float64)
    # For images of an odd size the whole map is averaged.
    expected = official(images, ours.state_dict(), (depth - 4) // 6)
    torch.testing.assert_close(ours.train()(images), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours(images.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-10, atol=1e-10)


def test_the_official_initialisation():
    ours = network(16, 4)
    for module in ours.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
            assert module.bias is None
        elif isinstance(module, nn.BatchNorm2d):
            assert 0 <= module.weight.min() < 0.3
            assert 0.7 < module.weight.max() <= 1
            assert not module.bias.any()
    assert not ours.linear.bias.any()
    assert ours.linear.weight.abs().max() <= 256**-0.5


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("noise", [nn.Identity, lambda channels: nn.Dropout(0.0)])
def test_the_place_of_the_noise(placement, noise):
    ours = network(10, noise=noise, placement=placement).train()
    block, calls = ours.groups[1][0], []
    names = {getattr(block, name): name for name in ("conv1", "noise", "norm2", "conv2")}
    for module, name in names.items():
        module.register_forward_hook(lambda _, inputs, output, name=name: calls.append((name, inputs[0].clone(), output.clone())))
    ours(torch.randn(4, 3, 16, 16))
    order = {"before-conv2": ["conv1", "norm2", "noise", "conv2"], "after-conv1": ["conv1", "noise", "norm2", "conv2"]}
    assert [name for name, _, _ in calls] == order[placement]
    seen = {name: (given, made) for name, given, made in calls}
    if placement == "after-conv1":
        assert torch.equal(seen["noise"][0], seen["conv1"][1])
        assert torch.equal(seen["norm2"][0], seen["noise"][1])
        assert torch.equal(seen["conv2"][0], seen["norm2"][1].relu())
    else:
        assert torch.equal(seen["norm2"][0], seen["conv1"][1])
        assert torch.equal(seen["noise"][0], seen["norm2"][1].relu())
        assert torch.equal(seen["conv2"][0], seen["noise"][1])


def test_each_block_has_a_noise_layer_of_its_own():
    layers = [
        module for name, module in network(22, noise=lambda channels: nn.Dropout()).named_modules() if name.endswith(".noise")
    ]
    assert len({id(layer) for layer in layers}) == 9


@pytest.mark.parametrize("depth", [4, 9, 11, 27, -2])
def test_a_depth_that_is_none(depth):
    with pytest.raises(ValueError, match=rf"depth must be 6 n \+ 4 .*, got {depth}"):
        network(depth)


def test_a_placement_that_is_none():
    with pytest.raises(ValueError, match="placement must be one of 'before-conv2', 'after-conv1', got 'before-conv1'"):
        network(placement="before-conv1")


@pytest.mark.parametrize("gradient", ["detached", "exact"])
@pytest.mark.parametrize("q", [1.0, 1.5, 2.0, 2.5, 3.0])
def test_the_pull_on_the_scale_of_what_a_normalisation_reads(q, gradient):
    """The normalisation ignores the scale of its input, so `sum x dL/dx` over a channel is the pull on its noise-to-signal ratio.

    It is 0 for the detached gradient, and `(q/2 - 1) sum (y - x) dL/dy` for the exact one.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, 4, 4, dtype=torch.float64, generator=generator).requires_grad_()
    target = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    norm = nn.BatchNorm2d(3, eps=1e-14).double().train()
    torch.manual_seed(1)
    y = sparseout.sparseout(x, 0.3, q, gradient=gradient, eps=1e-300)
    y.retain_grad()
    ((norm(y) - target) ** 2).sum().backward()
    pull = (x * x.grad).sum((0, 2, 3))
    expected = (q / 2 - 1) * ((y - x) * y.grad).sum((0, 2, 3)) if gradient == "exact" else torch.zeros(3)
    torch.testing.assert_close(pull.detach(), expected.detach().double(), rtol=1e-6, atol=1e-8)
    assert (pull.abs() > 1e-3).all() == (gradient == "exact" and q != 2)


def test_without_noise_at_test_time_the_normalised_activations_shrink():
    """The running variance contains the noise's, `p/(1-p) E|x|^q`: the output's standard deviation is `1 / sqrt(1 + r)`."""
    torch.manual_seed(0)
    scale, p, q = 0.2, 0.5, 1.0
    x = scale * torch.randn(400_000, 1)
    norm = nn.BatchNorm1d(1, momentum=1.0)
    norm(sparseout.sparseout(x, p, q))
    r = (p / (1 - p) * x.abs().pow(q).mean() / x.var()).item()
    assert r == pytest.approx(scale ** (q - 2) * (2 / torch.pi) ** 0.5, rel=0.02)
    assert norm.eval()(x).std().item() == pytest.approx((1 + r) ** -0.5, rel=0.02)
