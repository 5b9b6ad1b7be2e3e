"""Recorded models: a graph draws at each call and follows `train()` and `eval()`, or recording raises with advice."""

import copy

import pytest
import torch
from torch import nn
from torch.fx import Tracer, symbolic_trace
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

import sparseout
from sparseout import LockedSparseout, Sparseout, Sparseout1d, Sparseout2d

pytestmark = pytest.mark.filterwarnings("default")  # torch warns that TorchScript is deprecated

ONES = torch.ones(3, 4, 50)


def swapped():
    model = nn.Sequential(nn.Linear(4, 300), nn.ReLU(), nn.Dropout(0.5))
    nn.init.zeros_(model[0].weight), nn.init.ones_(model[0].bias)
    return sparseout.swap_dropout(model, 2.0).model


def inserted():
    model = nn.Sequential(nn.Linear(4, 300), nn.ReLU())
    nn.init.zeros_(model[0].weight), nn.init.ones_(model[0].bias)
    return sparseout.insert_after(model, nn.ReLU, q=2.0, p=0.5).model


def drawn_twice(run, x):
    """Assert that two calls draw different masks: each turns ones into zeros and twos."""
    first, second = run(x), run(x)
    for y in (first, second):
        assert set(y.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(first, second)


LAYERS = {
    "plain": lambda: Sparseout(0.5, 2.0),
    "rms": lambda: Sparseout(0.5, 2.0, scale="rms"),
    "matched": lambda: Sparseout(0.5, 2.0, scale="matched"),
    "1d": lambda: Sparseout1d(0.5, 2.0),
    "locked": lambda: LockedSparseout(0.5, 2.0),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_a_symbolic_trace_follows_train_and_eval_and_the_dials(layer):
    torch.manual_seed(0)
    for model in (nn.Sequential(nn.Identity(), layer()), layer()):
        for mode in (True, False):
            traced = symbolic_trace(copy.deepcopy(model).train(mode))
            assert traced.training == mode
            drawn_twice(traced.train(), ONES)
            assert torch.equal(traced.eval()(ONES), ONES)
            (inner,) = (module for module in traced.modules() if isinstance(module, Sparseout))
            inner.p = 0.0
            assert torch.equal(traced.train()(ONES), ONES)


@pytest.mark.parametrize("build", [swapped, inserted])
def test_a_symbolic_trace_of_a_changed_model_is_the_model(build):
    model, x = build(), torch.ones(2, 4)
    traced = symbolic_trace(model)
    traced.graph.lint()
    drawn_twice(traced.train(), x)
    assert torch.equal(traced.eval()(x), torch.ones(2, 300))
    for module in (traced.train(), model.train()):
        torch.manual_seed(4)
        y = module(x)
    torch.manual_seed(4)
    assert torch.equal(traced(x), y)
    assert set(traced.state_dict()) == set(model.state_dict())


def test_a_function_in_a_symbolic_trace_is_a_call_as_dropout_is():
    class Model(nn.Module):
        def forward(self, x):
            return functional.dropout(sparseout.sparseout(x, 0.5, 2.0, self.training), 0.0)

    graph = Tracer().trace(Model())
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [sparseout.sparseout, functional.dropout]
    drawn_twice(symbolic_trace(Model()), ONES)
    assert torch.equal(symbolic_trace(Model().eval())(ONES), ONES)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (Sparseout(0.5, 2.0), ONES),
        (Sparseout(0.5, 1.5, scale="rms"), ONES),
        (Sparseout(0.5, 1.5, scale="matched"), ONES),
        (Sparseout2d(0.5, 1.5), ONES),
        (LockedSparseout(0.5, 1.5), ONES),
        (nn.Sequential(nn.Identity(), Sparseout(0.5, 1.5)), ONES),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_torchscript_trace_raises_in_training_and_is_the_identity_in_evaluation(layer, x):
    before = torch.get_rng_state()
    with pytest.raises(
        RuntimeError, match=r"torch.jit.trace, .*: use torch.export or torch.compile to train, or trace model.eval"
    ) as raised:
        torch.jit.trace(layer.train(), x)
    assert "\n" not in str(raised.value)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.jit.trace(layer.eval(), x)(x + 1), x + 1)


def test_a_torchscript_trace_of_the_function_raises_too():
    with pytest.raises(RuntimeError, match="torch.jit.trace"):
        torch.jit.trace(lambda x: sparseout.sparseout(x, 0.5, 2.0), ONES)
    assert torch.equal(torch.jit.trace(lambda x: sparseout.sparseout(x, training=False), ONES)(2 * ONES), 2 * ONES)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("build", [swapped, inserted, lambda: Sparseout(), lambda: LockedSparseout()])
def test_a_script_is_refused_and_the_restored_model_compiles(build, mode):
    model = build().train(mode)
    with pytest.raises(TypeError, match="torch.jit.script cannot compile .*Sparseout: use torch.export or torch.compile"):
        torch.jit.script(model)
    if len(list(model.modules())) > 1:
        assert any(isinstance(module, Sparseout) for module in model.modules())
        scripted = torch.jit.script(sparseout.restore(model).eval())
        assert torch.equal(scripted(torch.ones(2, 4)), torch.ones(2, 300))


def test_a_frozen_trace_in_evaluation_keeps_nothing_of_the_layer():
    frozen = torch.jit.freeze(torch.jit.trace(swapped().eval(), torch.ones(2, 4)))
    assert not [node.kind() for node in frozen.graph.nodes() if "sparseout" in node.kind()]


@pytest.mark.parametrize(("how", "pre_dispatch"), [("real", False), ("fake", False), ("symbolic", False), ("fake", True)])
def test_a_recorded_graph_holds_the_two_operators_and_draws(how, pre_dispatch):
    graph = make_fx(Sparseout(0.5, 2.0), tracing_mode=how, pre_dispatch=pre_dispatch)(ONES)
    names = [str(node.target) for node in graph.graph.nodes if "sparseout" in str(node.target)]
    assert names == ["sparseout.draw.default", "sparseout.forward.default"]
    drawn_twice(graph, ONES)


@pytest.mark.parametrize("scale", ["rms", "matched"])
def test_a_recorded_graph_goes_on_learning_the_running_scale(scale):
    layer = Sparseout(0.5, 1.5, scale=scale)
    graph = make_fx(layer, tracing_mode="symbolic", _allow_non_fake_inputs=True)(ONES)
    assert layer.running_rms == 0
    graph(3 * ONES)
    assert layer.running_rms == 3


@pytest.mark.parametrize(("kind", "strict"), [("plain", True), ("rms", False), ("matched", False), ("locked", False)])
def test_an_export_draws_in_training_and_is_the_identity_in_evaluation(kind, strict):
    if kind in ("rms", "matched") and torch.__version__.startswith("2.6."):
        pytest.skip("a limit of torch 2.6, which docs/limits.md names")
    model = nn.Sequential(nn.Identity(), LAYERS[kind]())
    exported = torch.export.export(model.train(), (ONES,), strict=strict)
    drawn_twice(exported.module(), ONES)
    drawn_twice(exported.run_decompositions().module(), ONES)
    exported = torch.export.export(model.eval(), (ONES,), strict=strict)
    assert torch.equal(exported.module()(ONES), ONES)
    assert "sparseout" not in exported.graph_module.code


def test_functionalize_is_a_limit_of_torch_that_raises():
    with pytest.raises(RuntimeError, match="Functionalize rule for custom_function_call"):
        torch.func.functionalize(Sparseout(0.5, 2.0))(ONES)
    assert torch.equal(torch.func.functionalize(Sparseout().eval())(ONES), ONES)
