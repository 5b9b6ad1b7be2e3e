"""The image study: the effect of the noise, the schedule, resumption, evaluation, and settings out of range."""

import copy
import math
import types

import pytest
import torch
from accelerate import Accelerator
from torch import nn

import sparseout
from sparseout.errors import UserError
from sparseout.studies import image
from sparseout.studies.data import classification
from sparseout.studies.image import STUDY, ImageConfig, ImageLearner
from sparseout.training.checkpoint import load_checkpoint, save_checkpoint

SMALL = {"train_images": 70, "valid_images": 20, "batch_size": 32, "epochs": 4}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture
def learner(accelerator):
    def make(**settings):
        config = ImageConfig(**{**SMALL, **settings})
        data = image.load(config, None)
        torch.manual_seed(config.seed_of("initialisation"))
        return ImageLearner(config, data, image.model(config, data), accelerator)

    return make


def train(learner, epochs, start=0):
    """As the engine does. Returns the losses of the steps."""
    losses = []
    for epoch in epochs:
        steps = learner.start_epoch(epoch)
        learner.network.train()
        for step in range(start if epoch == epochs[0] else 0, steps):
            torch.manual_seed(learner.config.seed_of("noise", epoch, step, 0))
            total, items = learner.update(step)
            losses.append(total.item() / items)
    return losses


def noise_layers(network):
    return [network.get_submodule(name) for name in network.regularised_layers]


def test_the_noise_alone_differs(learner):
    weights, seen, made = {}, {}, {}
    for noise in ("none", "dropout", "sparseout"):
        run = learner(regularizer=noise, q=1.5)
        weights[noise] = copy.deepcopy(run.network.state_dict())
        inputs = seen[noise] = []
        run.network.conv.register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[0].clone()))
        made[noise] = train(run, [1, 2])
    assert len(seen["none"]) == 4
    for noise in ("dropout", "sparseout"):
        assert weights[noise].keys() == weights["none"].keys()
        assert all(torch.equal(weights[noise][name], weights["none"][name]) for name in weights["none"])
        assert all(map(torch.equal, seen[noise], seen["none"]))
        assert made[noise] != made["none"]
    assert made["dropout"] != made["sparseout"]


def test_the_dropout_baseline_is_torchs_own(learner, monkeypatch):
    monkeypatch.setattr("sparseout.layers.sparseout", lambda *_, **__: pytest.fail("Dropout must not be ours"))
    run = learner(regularizer="dropout", p=0.25)
    assert [(type(layer), layer.p) for layer in noise_layers(run.network)] == [(nn.Dropout, 0.25)] * 3
    train(run, [1])


def test_the_layers_of_each_noise(learner):
    for layer in noise_layers(learner(q=2.5, p=0.1, gradient="exact").network):
        assert type(layer) is sparseout.Sparseout
        assert (layer.q, layer.p, layer.gradient) == (2.5, 0.1, "exact")
    assert [type(layer) for layer in noise_layers(learner(regularizer="none").network)] == [nn.Identity] * 3


def test_the_official_schedule():
    config = ImageConfig(epochs=200, lr=0.1)
    rates = [config.learning_rate(epoch) for epoch in range(1, 201)]
    assert rates == pytest.approx([0.1] * 60 + [0.02] * 60 + [0.004] * 40 + [0.0008] * 40)
    ten = [ImageConfig(epochs=10, lr=1.0).learning_rate(epoch) for epoch in range(1, 11)]
    assert ten == pytest.approx([1.0] * 3 + [0.2] * 3 + [0.04] * 2 + [0.008] * 2)


def test_the_optimizer_has_the_schedule_of_any_epoch(learner):
    run = learner(epochs=10, weight_decay=0.01)
    for epoch in (9, 4, 1):
        run.start_epoch(epoch)
        (group,) = run.optimizer.param_groups
        assert group["lr"] == run.config.learning_rate(epoch)
        assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 0.01)


def test_an_epoch_takes_each_image_at_most_once_and_skips_the_rest(learner):
    run = learner()
    orders = []
    for epoch in (1, 2, 1):
        assert run.start_epoch(epoch) == 2
        assert [len(batch) for batch in run.batches] == [32, 32]
        orders.append(torch.cat(run.batches))
        assert orders[-1].unique().numel() == 64
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])


@pytest.mark.parametrize("q", [1.5, 2.0])
@pytest.mark.parametrize("epoch", [1, 3])
def test_a_run_goes_on_from_the_middle_of_an_epoch(q, epoch, learner, tmp_path):
    whole, killed, resumed = learner(q=q), learner(q=q), learner(q=q)
    expected = train(whole, [1, 2, 3, 4])
    losses = train(killed, range(1, epoch))
    killed.start_epoch(epoch)
    killed.network.train()
    torch.manual_seed(killed.config.seed_of("noise", epoch, 0, 0))
    total, items = killed.update(0)
    losses.append(total.item() / items)
    save_checkpoint(tmp_path / "checkpoint.safetensors", "run", killed.state_dict())
    resumed.start_epoch(epoch)
    resumed.load_state_dict(load_checkpoint(tmp_path / "checkpoint.safetensors", "run"))
    losses += train(resumed, range(epoch, 5), start=1)
    assert losses == expected
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    assert resumed.results() == whole.results()


def test_processes_share_the_batch_of_one(learner):
    run = learner(regularizer="none")
    run.network.eval()
    seen = []
    run.network.conv.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    run.start_epoch(2)
    whole = run.loss(1)
    device = run.device
    parts = []
    for index in range(3):
        run.accelerator = types.SimpleNamespace(num_processes=3, process_index=index, device=device)
        parts.append(run.loss(1))
    assert {part.items for part in parts} == {32}
    assert torch.equal(torch.cat(seen[1:]), seen[0])
    assert sum(part.total.item() for part in parts) == pytest.approx(whole.total.item(), rel=1e-5)


def test_bfloat16_by_autocast(learner):
    single, half = learner(), learner(precision="bf16")
    dtypes = []
    half.network.linear.register_forward_hook(lambda _, inputs, output: dtypes.append(output.dtype))
    losses = train(single, [1]), train(half, [1])
    assert set(dtypes) == {torch.bfloat16}
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert {p.dtype for p in half.network.parameters()} == {torch.float32}


def test_only_images_that_are_no_digits_are_mirrored(learner, monkeypatch):
    asked = []
    crop = image.crop_and_flip

    def recorded(images, padding, flip, generator):
        asked.append((padding, flip))
        return crop(images, padding, flip, generator)

    monkeypatch.setattr(image, "crop_and_flip", recorded)
    run = learner()
    run.start_epoch(1)
    run.loss(0)
    big = torch.zeros(40, 32, 32, 3, dtype=torch.uint8)
    part = classification.Part(big, torch.arange(40) % 10)
    data = classification.LabelledImages(part, part[:0], part, 10, torch.zeros(3), torch.ones(3))
    monkeypatch.setattr(classification, "load", lambda *_: data)
    coloured = learner(dataset="cifar10")
    coloured.start_epoch(1)
    coloured.loss(0)
    assert asked == [(1, False), (4, True)]


def test_the_evaluation_is_a_plain_loops(learner):
    run = learner()
    train(run, [1])
    run.network.eval()
    for part, record, names in (
        (run.data.valid, run.evaluate(), ("valid_loss", "valid_accuracy")),
        (run.data.test, run.results(), ("test_loss", "accuracy")),
    ):
        total, correct = 0.0, 0
        for picture, label in zip(part.images, part.labels, strict=True):
            scaled = (picture.double() - run.data.mean) / run.data.std
            with torch.no_grad():
                chances = run.network(scaled.permute(2, 0, 1)[None].float())[0].double().softmax(0)
            total -= math.log(chances[label])
            correct += int(chances.argmax()) == int(label)
        assert record[names[0]] == pytest.approx(total / len(part), rel=1e-4)
        assert record[names[1]] == correct / len(part)
        assert list(record["layers"]) == [f"groups.{group}.0.noise" for group in range(3)]
        assert 0 < record["hoyer"] < 1
        assert record["rms"] > 0
    assert record["layers"]["groups.2.0.noise"]["units"] == 64
    assert record["layers"]["groups.2.0.noise"]["vectors"] == 360 * 2 * 2


def test_without_held_out_images_the_test_images_are_judged_by(learner):
    record = learner(valid_images=0).evaluate()
    assert list(record) == ["test_loss", "accuracy", "hoyer", "zeros", "rms", "layers"]


def test_a_batch_of_more_images_than_there_are():
    with pytest.raises(UserError, match="batch_size must be at most the 70 training images, got 71"):
        image.load(ImageConfig(**{**SMALL, "batch_size": 71}), None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 12}, r"depth must be 6 n \+ 4 .*, got 12"),
        ({"width": 0}, "width must be an integer of at least 1, got 0"),
        ({"lr": 0.0}, "lr must be a positive number, got 0.0"),
        ({"weight_decay": -1e-3}, "weight_decay must be a number of at least 0, got -0.001"),
        ({"valid_images": -1}, "valid_images must be an integer of at least 0, got -1"),
        ({"train_images": -5}, "train_images must be an integer of at least 0, got -5"),
        ({"placement": "after-conv2"}, "placement must be one of 'before-conv2', 'after-conv1', got 'after-conv2'"),
        ({"dataset": "mnist"}, "dataset must be one of 'digits', 'cifar10', 'cifar100', got 'mnist'"),
    ],
)
def test_settings_that_are_none(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageConfig(**settings)


def test_the_papers_preset():
    (config,) = {
        config
        for config in STUDY.grid({name: v if isinstance(v, tuple) else (v,) for name, v in STUDY.presets["paper"].items()})
        if (config.q, config.seed) == (2.0, 0)
    }
    assert (config.dataset, config.depth, config.width, config.placement) == ("cifar10", 28, 10, "before-conv2")
    assert (config.epochs, config.batch_size, config.lr, config.weight_decay, config.p) == (200, 128, 0.1, 5e-4, 0.3)
    assert (config.train_images, config.valid_images) == (0, 0)


@pytest.mark.parametrize("placement", ["before-conv2", "after-conv1"])
def test_it_learns_the_digits(placement, learner):
    run = learner(train_images=0, valid_images=237, placement=placement, epochs=5)
    train(run, range(1, 6))
    assert run.results()["accuracy"] > 0.85
