"""The small convolutional classifier: its structure, where the noise is, its settings, and the flags and files that name it."""

import shlex

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from sparseout.cli import study
from sparseout.cli.main import main
from sparseout.errors import UserError
from sparseout.runs.spec import read_spec
from sparseout.studies import image
from sparseout.studies.image import STUDY, ImageConfig
from sparseout.studies.models.cnn import ConvNet

pytestmark = pytest.mark.usefixtures("one_thread")


def learner(**settings):
    config = ImageConfig(**{"network": "cnn", "train_images": 128, "valid_images": 64, "batch_size": 64, "epochs": 2, **settings})
    data = image.load(config, None)
    torch.manual_seed(config.seed_of("initialisation"))
    return image.ImageLearner(config, data, image.model(config, data), Accelerator(cpu=True))


@pytest.mark.parametrize("size", [8, 11, 32])
def test_it_computes_three_blocks_and_two_linear_layers(size):
    torch.manual_seed(0)
    network = ConvNet(size, channels=3, classes=7, hidden_size=24, noise=nn.Identity()).double()
    state, h = network.state_dict(), torch.randn(4, 3, size, size, dtype=torch.float64)
    logits = network(h)
    for layer in (0, 3, 6):
        h = F.max_pool2d(F.conv2d(h, state[f"features.{layer}.weight"], state[f"features.{layer}.bias"], padding=1).relu(), 2)
    h = F.linear(h.flatten(1), state["hidden.0.weight"], state["hidden.0.bias"]).relu()
    torch.testing.assert_close(logits, F.linear(h, state["linear.weight"], state["linear.bias"]))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_the_initialisation_is_hes():
    network = ConvNet(32, 3, 10, 512, nn.Identity())
    layers = [module for module in (*network.features, *network.hidden) if hasattr(module, "weight")]
    assert len(layers) == 4
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx((2 / layer.weight[0].numel()) ** 0.5, rel=0.1)
        assert not layer.bias.any()


def test_the_noise_is_on_the_rectified_units():
    network = learner(hidden_size=48).network
    seen = []
    network.noise.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.randn(5, 1, 8, 8))
    assert seen[0].shape == (5, 48)
    assert seen[0].min() == 0
    assert network.regularised_layers == ("noise",)


def test_the_noise_is_on_the_last_convolution_if_asked():
    """The network computes the logits of this input of the hidden layer, and a unit is one of the 64 channels."""
    network = learner(hidden_size=48, noise_layer="convolution", q=1.5, scale="rms").network
    x, seen = torch.randn(5, 1, 8, 8), []
    network.noise.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    logits = network(x)
    (clean, noisy) = seen[0]
    assert clean.shape == (5, 64, 1, 1)
    torch.testing.assert_close(clean, network.features(x))
    assert not torch.equal(clean, noisy)
    torch.testing.assert_close(logits, network.linear(network.hidden(noisy.flatten(1))))
    k_winners = learner(noise_layer="convolution", regularizer="k_winners", k=0.25).network.noise
    assert (k_winners.dim, k_winners.units) == (1, 64)


@pytest.mark.parametrize(
    ("network", "settings"),
    [
        ("cnn", {"depth": 16}),
        ("cnn", {"width": 4}),
        ("cnn", {"placement": "after-conv1"}),
        ("wide_resnet", {"hidden_size": 64}),
        ("wide_resnet", {"noise_layer": "convolution"}),
    ],
)
def test_a_setting_without_effect_for_the_network_is_not_in_the_name(network, settings):
    other = {"cnn": "wide_resnet", "wide_resnet": "cnn"}[network]
    assert ImageConfig(network=network, **settings).run == ImageConfig(network=network).run
    assert ImageConfig(network=other, **settings).run != ImageConfig(network=other).run


def test_what_older_records_lack_is_left_out_at_its_default():
    assert not {"network", "hidden_size", "noise_layer", "augmentation", "keep"} & set(ImageConfig().to_dict())
    assert ImageConfig().run == "15ce645eb81a"
    assert ImageConfig(network="cnn").to_dict()["network"] == "cnn"


SETTINGS = {"network": "cnn", "hidden_size": 64, "augmentation": "none", "valid_images": 50, "keep": "best"}


def test_the_command_of_a_run_repeats_it(monkeypatch, tmp_path):
    grids = []
    monkeypatch.setattr(study, "execute", lambda study, configs, *_: grids.append(configs) or ([], []))
    monkeypatch.chdir(tmp_path)
    config = ImageConfig(**SETTINGS).normalised()
    assert main(shlex.split(config.command)[1:]) == 0
    assert grids == [[config]]


def test_a_sweep_file_has_the_settings_as_axes(tmp_path):
    file = tmp_path / "sweep.toml"
    lines = ['study = "image"', 'augmentation = ["standard", "none"]', 'network = "cnn"', "valid_images = 50"]
    file.write_text("\n".join([*lines, 'keep = ["last", "best"]', "q = 2"]))
    found = {(config.augmentation, config.keep) for config in read_spec(file).configs}
    assert found == {("standard", "last"), ("standard", "best"), ("none", "last"), ("none", "best")}
    assert {config.network for config in read_spec(file).configs} == {"cnn"}


def test_without_augmentation_the_network_sees_the_images_themselves():
    seen = {}
    for augmentation in ("standard", "none"):
        run = learner(augmentation=augmentation)
        inputs = seen[augmentation] = []
        run.network.features[0].register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[0].clone()))
        run.start_epoch(1)
        run.loss(0)
    images = run.data.normalised(run.data.train.images[run.batches[0]])
    assert torch.equal(seen["none"][0], images)
    assert not torch.equal(seen["standard"][0], images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "resnet"}, "network must be one of 'wide_resnet', 'cnn', got 'resnet'"),
        ({"augmentation": "flip"}, "augmentation must be one of 'standard', 'none', got 'flip'"),
        ({"hidden_size": 0}, "hidden_size must be an integer of at least 1, got 0"),
        ({"keep": "best"}, "keep must be 'last' without valid_images, got 'best'"),
    ],
)
def test_settings_that_are_none(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageConfig(**settings)


def test_it_learns_the_digits():
    run = learner(train_images=0, valid_images=237, epochs=10, lr=0.02, p=0.5)
    for epoch in range(1, 11):
        for step in range(run.start_epoch(epoch)):
            run.network.train()
            run.update(step)
        run.evaluate()
    assert run.results()["accuracy"] > 0.85


def test_cifar100_without_its_files_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^--data-dir must hold train\*.parquet or cifar100/train\*.parquet: .* has neither$"):
        image.load(ImageConfig(dataset="cifar100"), tmp_path)


@pytest.mark.parametrize(("name", "dataset", "count"), [("cnn", "cifar10", 2000), ("cnn-cifar100", "cifar100", 5000)])
def test_the_presets(name, dataset, count):
    for config in STUDY.grid(STUDY.axes(name)):
        assert (config.network, config.dataset, config.train_images, config.hidden_size) == ("cnn", dataset, count, 512)
        assert (config.augmentation, config.keep, config.valid_images) == ("none", "best", 2000)
