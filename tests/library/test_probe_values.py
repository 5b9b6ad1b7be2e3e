"""Values that cannot be read are reported, the model runs as without a probe, and no trace of the probe remains."""

import functools
import subprocess
import sys

import pytest
import torch
from probed import hooks, mlp
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from sparseout import Probe

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
]
X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))


def fake(run):
    with FakeTensorMode(allow_non_fake_inputs=True):
        return run(torch.randn(5, 6))


TRACERS = {
    "FakeTensor": (fake, "is a FakeTensor, which has no values"),
    "TwoTensor": (lambda run: run(TwoTensor(X, X.clone())), "is a TwoTensor, whose values cannot be read"),
    "vmap": (lambda run: torch.vmap(run, randomness="different")(torch.stack([X, X])), "inside a transform of torch.func"),
    "grad": (lambda run: torch.func.grad(lambda x: run(x).sum())(X), "inside a transform of torch.func"),
    "jvp": (lambda run: torch.func.jvp(run, (X,), (X,)), "inside a transform of torch.func"),
    "functionalize": (lambda run: torch.func.functionalize(run)(X), "inside a transform of torch.func"),
    "make_fx, fake": (lambda run: make_fx(lambda x: run[1:3](x), tracing_mode="fake")(X), "is a FakeTensor"),
    "make_fx, symbolic": (lambda run: make_fx(lambda x: run[1:3](x), tracing_mode="symbolic")(X), "is a FakeTensor"),
    "jit.trace": (lambda run: torch.jit.trace(run, X, check_trace=False), "was computed under torch.jit.trace"),
    "export": (lambda run: torch.export.export(run, (X,), strict=False), "by compiled or exported code"),
    "meta": (lambda run: run.to("meta")(X.to("meta")), "is not a dense, real tensor"),
}


@pytest.mark.parametrize("measures", ["basic", "all"])
@pytest.mark.parametrize("name", TRACERS)
def test_a_tensor_without_values_is_reported_and_the_model_runs(name, measures):
    trace, reason = TRACERS[name]
    with Probe(probed := model(), measures=measures) as probe:
        torch.manual_seed(1)
        found = trace(probed)
    summary = probe.summary()
    assert summary.layers == ()
    assert {layer: reason in why for layer, why in summary.unseen.items() if layer in ("1", "2")} == {"1": True, "2": True}
    assert reason in str(summary)
    assert hooks(probed) == 0
    assert not torch.overrides._get_current_function_mode_stack()
    if isinstance(found, torch.Tensor) and name in ("vmap", "grad", "functionalize"):
        plain = model()
        torch.manual_seed(1)
        assert torch.equal(found, trace(plain))


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["compile", "compile around", "strict export"])
def test_compiled_and_exported_code_has_nothing_of_the_probe(compiler):
    torch._dynamo.reset()
    with Probe(probed := model()) as probe:
        if compiler == "strict export":
            assert len(torch.export.export(probed, (X,), strict=True).graph_signature.user_outputs) == 1
        else:
            whole = probed if compiler == "compile" else lambda x: probed(x)
            assert torch.compile(whole, fullgraph=True, backend="eager")(X).shape == (5, 4)
    assert "by compiled or exported code" in probe.summary().unseen["1"]
    with probe:
        if compiler != "strict export":
            torch.compile(whole, fullgraph=True, backend="eager")(X)
            assert probe.summary()["1"].vectors == 5
    assert hooks(probed) == 0


def test_a_traced_graph_has_no_operation_of_the_probe():
    with Probe(probed := model().eval()) as probe:
        traced = make_fx(probed)(X)
        symbolic = torch.fx.symbolic_trace(probed)
        jitted = torch.jit.trace(probed, X)
    plain = model().eval()
    assert traced.code == make_fx(plain)(X).code
    assert symbolic.code == torch.fx.symbolic_trace(plain).code
    assert str(jitted.graph).count("aten::") == str(torch.jit.trace(plain, X).graph).count("aten::")
    assert type(probe.summary()["1"].vectors) is int


def test_a_layer_that_was_measured_in_some_calls_alone_says_so():
    with Probe(probed := model()) as probe:
        probed(X)
        torch.vmap(probed, randomness="different")(torch.stack([X, X]))
    assert probe.summary()["1"].vectors == 5
    assert probe.summary().unseen["1"].startswith("in some calls, its output was computed inside a transform of torch.func")


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.seen.append(operation)
        return operation(*args, **(kwargs or {}))


def test_dispatch_modes_see_no_operation_of_the_probe():
    def operations(run):
        with Operations() as mode:
            run(X)
        return mode.seen

    with Probe(probed := model(), measures="all") as probe:
        found = operations(probed)
    assert found == operations(model())
    assert probe.summary()["1"].vectors == 5


def test_selective_checkpointing_goes_on():
    def policy(context, operation, *args, **kwargs):
        return CheckpointPolicy.MUST_SAVE if operation is torch.ops.aten.addmm.default else CheckpointPolicy.PREFER_RECOMPUTE

    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    with Probe(probed := model(), measures="all") as probe:
        checkpoint(probed, X, use_reentrant=False, context_fn=contexts).sum().backward()
    assert probe.summary()["1"].vectors == 5
    assert probed[0].weight.grad is not None


@pytest.mark.parametrize("measures", ["basic", "all"])
def test_tensors_that_hold_their_values_in_another_way_are_measured(measures):
    class Labelled(torch.Tensor):
        pass

    def measured(probe):
        return {name: value for name, value in probe.summary()[""].measures().items() if value is not None}

    expected = {}
    values = {
        "plain": X,
        "subclass": X.as_subclass(Labelled),
        "parameter": nn.Parameter(X),
        "negated": torch.complex(-X, -X).conj().imag,
    }
    for name, value in values.items():
        with Probe(relu := nn.ReLU(), "", measures=measures) as probe:
            relu(value)
        expected[name] = measured(probe)
    with forward_ad.dual_level(), Probe(relu := nn.ReLU(), "", measures=measures) as probe:
        relu(forward_ad.make_dual(X, X))
    expected["dual"] = measured(probe)
    for name, found in expected.items():
        assert found == pytest.approx(expected["plain"], rel=1e-9), name
    with Probe(relu := nn.ReLU(), "", measures=measures) as probe:
        relu(torch._efficientzerotensor((4, 6)))
    assert (probe.summary()[""].vectors, probe.summary()[""].zero_vectors) == (4, 4)


class Interrupted(nn.Module):
    def forward(self, x):
        raise KeyboardInterrupt


@pytest.mark.parametrize("after", ["stop", "more"])
def test_an_interrupted_forward_pass_leaves_nothing_behind(after):
    probed = mlp(Interrupted())
    probe = Probe(probed).start()
    with pytest.raises(KeyboardInterrupt):
        probed(torch.randn(5, 6))
    probe.stop()
    assert hooks(probed) == 0
    assert not torch.overrides._get_current_function_mode_stack()
    with probe, pytest.raises(KeyboardInterrupt):
        probed(torch.randn(5, 6))
    assert probe.summary().layers[0].vectors == 10


def test_probes_that_end_in_any_order_restore_the_settings_they_changed():
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    first, second = Probe(layer).start(), Probe(layer).start()
    assert not torch.backends.mha.get_fastpath_enabled()
    first.stop()
    assert not torch.backends.mha.get_fastpath_enabled()
    second.stop()
    assert torch.backends.mha.get_fastpath_enabled()


def test_torchs_fused_encoder_is_measured_in_every_pass():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=nn.GELU(), batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.randn(3, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] + [True] * 4])
    with torch.no_grad():
        before = encoder(x, src_key_padding_mask=padding)
        with Probe(encoder) as probe:
            after = [encoder(x, src_key_padding_mask=padding) for _ in range(3)]
    assert {record.vectors for record in probe.summary().layers} == {27}
    for value in after:
        torch.testing.assert_close(value[~padding], before[~padding])


def test_the_compiler_is_not_imported_by_a_probe():
    program = "import sys, torch; from torch import nn; from sparseout import Probe; m = nn.Sequential(nn.ReLU())\n"
    program += "with Probe(m): m(torch.eye(3))\nprint('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
