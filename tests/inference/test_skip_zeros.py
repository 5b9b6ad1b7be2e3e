"""`skip_zeros` finds the layers whose inputs have zeros, measures them, and replaces those that get faster."""

import copy
import warnings

import pytest
import torch
from torch import nn

import sparseout
from sparseout.inference import SkipZerosLinear, restore, skip
from sparseout.inference.timing import Timer, Times


class FakeTimer:
    """Claims that the fast contender is `speeds` times as fast: one speed for each measurement, the last for all later ones."""

    def __init__(self, *speeds):
        self.speeds, self.inputs = list(speeds), []

    def __call__(self):
        return self

    def fill_cache(self):
        pass

    def measure(self, contenders, seconds):
        for function, inputs in contenders.values():
            for x in inputs:
                function(x)
        self.inputs.append(inputs)
        speed = self.speeds[0] if len(self.speeds) == 1 else self.speeds.pop(0)
        names = list(contenders)
        return {**{name: Times(1.0, 1.0) for name in names[:-1]}, names[-1]: Times(1 / speed, 1 / speed)}


@pytest.fixture
def timer(monkeypatch):
    def use(*speeds):
        fake = FakeTimer(*speeds)
        monkeypatch.setattr(skip, "Timer", fake)
        return fake

    return use


def network(activation=nn.ReLU, size=64, bias=-1.0):
    torch.manual_seed(0)
    middle = (activation(), nn.Dropout(0.5), sparseout.Sparseout(0.5, 1.0))
    model = nn.Sequential(nn.Linear(20, size), *middle, nn.Linear(size, 10)).eval()
    nn.init.constant_(model[0].bias, bias)
    return model


@pytest.fixture
def x():
    return torch.randn(6, 20, generator=torch.Generator().manual_seed(1))


def test_a_layer_behind_relu_and_identities_is_replaced_in_a_copy(timer, x):
    timer(2.0)
    model = network()
    before = copy.deepcopy(model.state_dict())
    report = sparseout.skip_zeros(model, x)
    assert report.replaced == ("4",)
    assert type(model[4]) is nn.Linear
    assert type(report.model[4]) is SkipZerosLinear
    with torch.no_grad():
        assert torch.allclose(report.model(x), model(x), rtol=1e-5, atol=1e-6)
    saved = report.model.state_dict()
    assert saved.keys() == before.keys()
    assert all(torch.equal(saved[key], value) for key, value in before.items())


def test_in_place_keeps_the_modules_and_restore_undoes_it(timer, x):
    timer(2.0)
    model = network()
    layer, parameter, dense = model[4], model[4].weight, model(x)
    report = sparseout.skip_zeros(model, x, inplace=True)
    assert report.model is model
    assert model[4] is layer
    assert layer.weight is parameter
    assert type(layer) is SkipZerosLinear
    restore(model)
    assert type(layer) is nn.Linear
    assert torch.equal(model(x), dense)


def test_the_report_gives_fractions_unions_and_speeds(timer, x):
    timer(2.0)
    report = sparseout.skip_zeros(network(), x)
    first, last = report.layers
    hidden = network()[:2](x) != 0
    assert last.active == pytest.approx(hidden.float().mean().item())
    assert last.union[1] == pytest.approx(last.active)
    assert last.union[2] == pytest.approx(hidden.view(3, 2, 64).any(1).float().mean().item())
    assert list(last.union) == [1, 2, 4]
    assert (last.batch, last.cold, last.warm, last.speed) == (6, 2.0, 2.0, 2.0)
    assert (report.cold, report.warm) == (2.0, 2.0)
    assert report.cold_bound >= 1
    assert first.reason == "100 % active: too few zeros"
    text = repr(report)
    assert "1 of 2 linear layers skip zeros in a copy: use report.model" in text
    assert "2.0x" in text
    assert "0: 100 % active: too few zeros" in text


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.Tanh])
def test_inputs_without_zeros_are_refused(timer, x, activation):
    timer(9.0)
    report = sparseout.skip_zeros(network(activation), x)
    assert report.replaced == ()
    assert [layer.reason for layer in report.layers] == ["100 % active: too few zeros"] * 2


def test_a_layer_that_gains_too_little_stays_dense(timer, x):
    timer(1.1)
    report = sparseout.skip_zeros(network(), x)
    assert report.replaced == ()
    assert report.layers[1].reason.endswith("% active, 1.1x at batch 6: left dense")
    assert type(report.model[4]) is nn.Linear


def test_a_model_that_gets_no_faster_stays_dense(timer, x):
    timer(2.0, 1.0, 0.9)
    report = sparseout.skip_zeros(network(), x)
    assert report.replaced == ()
    assert "the whole model is 0.90x as fast" in report.layers[1].reason
    assert type(report.model[4]) is nn.Linear


@pytest.mark.parametrize(("lowest", "is_replaced"), [(1.04, False), (1.06, True)])
def test_the_lowest_of_three_speeds_of_the_model_counts(timer, x, lowest, is_replaced):
    timer(2.0, 1.0, 1.3, lowest, 1.3)
    report = sparseout.skip_zeros(network(), x)
    assert bool(report.replaced) == is_replaced
    assert report.cold == pytest.approx(lowest if is_replaced else 1.0)


def test_larger_batches_are_tried_until_one_gains_too_little(timer, x):
    fake = timer(2.0, 1.5, 1.1, 2.0)
    report = sparseout.skip_zeros(network(), x)
    assert report.layers[1].max_batch == 12
    assert report.model[4].max_batch == 12
    assert [len(inputs[0]) for inputs in fake.inputs[:3]] == [6, 12, 24]


def test_bfloat16_weights(timer, x):
    timer(2.0)
    report = sparseout.skip_zeros(network(), x, weights="bfloat16")
    assert report.model[4].weight.dtype == torch.bfloat16
    assert torch.allclose(report.model(x), network()(x), rtol=1e-2, atol=1e-2)


def test_a_threshold_sets_small_activations_to_zero_and_gives_the_price(timer, x):
    timer(2.0)
    model = network(nn.GELU)
    report = sparseout.skip_zeros(model, x, threshold=0.75, loss=lambda each: each(x).square().mean())
    layer = report.layers[1]
    assert report.replaced == ("0", "4")
    assert layer.active == pytest.approx(0.25, abs=0.01)
    hidden = model[:2](x)
    assert layer.cutoff == pytest.approx(hidden.abs().flatten().quantile(0.75).item(), rel=0.05)
    assert report.loss_before == pytest.approx(model(x).square().mean().item())
    assert report.loss_after == pytest.approx(report.model(x).square().mean().item())
    assert report.loss_after != report.loss_before
    assert "the loss changes from" in repr(report)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm, self.conv = nn.Embedding(30, 16), nn.LSTM(16, 16, batch_first=True), nn.Conv1d(16, 16, 1)
        self.head, self.unused, self.wide = nn.Linear(16, 30), nn.Linear(2, 2), nn.Linear(16, 4).double()
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.lstm(self.embed(tokens))[0].relu()
        x = self.conv(x.transpose(1, 2)).transpose(1, 2).relu()
        return self.head(x) + self.wide(x.double()).sum()


def test_other_layers_are_refused_with_the_reason(timer):
    timer(9.0)
    report = sparseout.skip_zeros(Tied().eval(), torch.randint(30, (2, 5)))
    reasons = dict(report.refused)
    assert report.layers == ()
    assert "recurrent" in reasons["lstm"]
    assert "convolution" in reasons["conv"]
    assert "shared: embed.weight and head.weight" in reasons["head"]
    assert "float64" in reasons["wide"]
    assert "not called" in reasons["unused"]
    assert "lstm: recurrent layers are not supported" in repr(report)


def test_fused_encoder_layers_and_own_forwards_are_refused(timer):
    timer(9.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's of its own nested tensors
        model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1).eval()
        report = sparseout.skip_zeros(model, torch.randn(2, 3, 8))
    assert "not called" in dict(report.refused)["layers.0.linear2"]

    class Own(nn.Linear):
        def forward(self, input):
            return super().forward(input)

    assert "forward of its own" in dict(sparseout.skip_zeros(Own(3, 3).eval(), torch.ones(1, 3)).refused)[""]


def test_an_example_may_be_a_function_and_calls_of_any_size_count(timer, x):
    fake = timer(2.0)
    report = sparseout.skip_zeros(network(), lambda model: [model(x), model(x[:1]), model(x[:0]), model(x[1:2])])
    assert report.layers[1].batch == 6
    assert [[len(each) for each in inputs] for inputs in fake.inputs[:2]] == [[1, 1], [6]]


def test_calls_that_are_too_large_to_gain_stay_dense(timer, x):
    timer(2.0, 1.1, 2.0)
    report = sparseout.skip_zeros(network(), lambda model: [model(x), model(x[:1])])
    assert (report.layers[1].batch, report.layers[1].max_batch) == (1, 1)


def test_a_module_with_two_names_is_one_layer(timer, x):
    timer(2.0)
    layer = nn.Linear(20, 20)
    report = sparseout.skip_zeros(nn.Sequential(layer, nn.ReLU(), layer).eval(), x.relu())
    assert report.replaced == ("0",)
    assert report.model[0] is report.model[2]


def test_hooks_and_a_later_compilation_work(timer, x):
    timer(2.0)
    model, seen = network(), []
    model[4].register_forward_hook(lambda *_: seen.append(True))
    report = sparseout.skip_zeros(model, x, inplace=True)
    seen.clear()
    expected = model(x)
    assert seen == [True]
    compiled = torch.compile(report.model, backend="eager")
    assert torch.allclose(compiled(x), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        (lambda model: model.train(), {}, "evaluation mode"),
        (lambda model: model.to("meta"), {}, "on the CPU"),
        (torch.compile, {}, "compile"),
        (lambda model: "model", {}, "torch.nn.Module"),
        (lambda model: model, {"weights": "int8"}, "weights"),
        (lambda model: model, {"threshold": 1.5}, "threshold"),
        (lambda model: model, {"loss": print}, "loss"),
    ],
)
def test_what_it_cannot_use_is_refused_by_name(x, change, settings, words):
    with pytest.raises((TypeError, ValueError), match=words):
        sparseout.skip_zeros(change(network()), x, **settings)


def test_bfloat16_needs_the_compiled_kernel(monkeypatch, x):
    monkeypatch.setattr(skip, "LIBRARY", None)
    with pytest.raises(ValueError, match="weights"):
        sparseout.skip_zeros(network(), x, weights="bfloat16")


@pytest.mark.slow
def test_a_real_measurement_replaces_a_large_sparse_layer_only(monkeypatch):
    monkeypatch.setattr(skip, "_SECONDS", 0.02)
    monkeypatch.setattr(skip, "_LARGEST_TRIED", 1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 2048), nn.ReLU(), nn.Linear(2048, 1024)).eval()
    nn.init.constant_(model[0].bias, -1.0)
    x = torch.randn(1, 64)
    report = sparseout.skip_zeros(model, x)
    assert report.replaced == ("2",)
    assert report.layers[1].speed >= skip.LEAST_SPEED
    assert torch.allclose(report.model(x), model(x), rtol=1e-5, atol=1e-6)


def test_the_timer_takes_turns_and_returns_the_shortest_times():
    calls = []
    times = Timer().measure({name: (lambda x, name=name: calls.append(name), [torch.ones(1)]) for name in "ab"}, 0.0)
    assert calls == ["a", "a", "b", "b"] * 3
    assert all(0 < times[name].warm < 1 and 0 < times[name].cold < 1 for name in "ab")


NOISE = 1.02


def drawn_model(number):
    """Draw a shape and a sparsity: a layer with sparse inputs, or two layers with ReLU between them, and an example."""
    torch.manual_seed(number)
    inputs, outputs, rows = (int(2 ** (low + 6 * torch.rand(()))) for low in (5, 5, 0))
    if number % 2:
        x = torch.randn(rows, inputs) * (torch.rand(rows, inputs) < torch.rand(()) ** 2)
        return nn.Sequential(nn.Linear(inputs, outputs)).eval(), x
    model = nn.Sequential(nn.Linear(64, inputs), nn.ReLU(), nn.Linear(inputs, outputs)).eval()
    nn.init.constant_(model[0].bias, -2 * torch.rand(()).item())
    return model, torch.randn(rows, 64)


def is_as_fast(timer, dense, fast, x):
    """Whether `fast` takes at most as long as `dense`, cold and warm. Other processes only add to a time, so the least counts."""
    least = {}
    for _ in range(10):
        with torch.no_grad():
            times = timer.measure({"dense": (dense, [x]), "fast": (fast, [x])}, 0.2)
        for name, each in times.items():
            for kind in ("cold", "warm"):
                least[name, kind] = min(getattr(each, kind), least.get((name, kind), float("inf")))
        if all(least["fast", kind] <= NOISE * least["dense", kind] for kind in ("cold", "warm")):
            return True
    return False


@pytest.mark.slow
def test_no_layer_and_no_model_that_it_returns_is_slower_than_before():
    timer, replaced, slower = Timer(), 0, []
    for number in range(30):
        dense, x = drawn_model(number)
        report = sparseout.skip_zeros(dense, x)
        assert [type(each) is SkipZerosLinear for each in report.model] == [
            str(k) in report.replaced for k in range(len(report.model))
        ]
        if not report.replaced:
            continue
        replaced += 1
        if not is_as_fast(timer, dense, report.model, x):
            slower.append((number, report))
        with torch.no_grad():
            hidden = x
            for before, after in zip(dense, report.model, strict=True):
                if type(after) is SkipZerosLinear and not is_as_fast(timer, before, after, hidden):
                    slower.append((number, after))
                hidden = before(hidden)
    assert not slower
    assert 0 < replaced < 30


@pytest.mark.slow
def test_a_slower_model_would_be_seen():
    class Slower(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 0 * super().forward(x)

    torch.manual_seed(0)
    assert not is_as_fast(Timer(), nn.Linear(512, 512), Slower(512, 512), torch.randn(4, 512))
