"""One graph serves all values of `p` and `q`, set directly or by a schedule."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

import sparseout
from sparseout import LockedSparseout, Sparseout, Sparseout2d, schedule

pytestmark = pytest.mark.filterwarnings("default")  # torch's compiler warns about itself


def compiled(model):
    torch.compiler.reset()
    counter = CompileCounter()
    return torch.compile(model, backend=counter, fullgraph=True), counter


@pytest.mark.parametrize("gradient", ["detached", "exact"])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [(Sparseout, (4, 3)), (Sparseout2d, (4, 3, 5, 5)), (LockedSparseout, (7, 4, 3))],
    ids=lambda value: str(value),
)
def test_a_hundred_values_of_p_and_q_are_compiled_once(kind, shape, gradient):
    layer = kind(gradient=gradient)
    run, counter = compiled(nn.Sequential(nn.Linear(shape[-1], shape[-1]), layer))
    for i in range(100):
        layer.p, layer.q = i / 100, i / 25
        x = torch.randn(shape, requires_grad=True)
        torch.manual_seed(i)
        y = run(x)
        y.sum().backward()
        torch.manual_seed(i)
        torch.testing.assert_close(layer(run._orig_mod[0](x)), y)
    assert counter.frame_count == 1


@pytest.mark.parametrize("kind", [schedule.Linear, schedule.Cosine, schedule.WarmUp])
def test_a_schedule_does_not_recompile(kind):
    layer = Sparseout(0.4, 1.5)
    run, counter = compiled(nn.Sequential(nn.Linear(5, 5), layer))
    driver = kind(layer, 50, p=0.1, q=2.5)
    for _ in range(51):
        run(torch.randn(3, 5)).sum().backward()
        driver.step()
    assert counter.frame_count == 1


def test_other_shapes_are_one_dynamic_graph():
    layer = Sparseout(0.4, 1.5)
    torch.compiler.reset()
    counter = CompileCounter()
    run = torch.compile(layer, backend=counter, fullgraph=True, dynamic=True)
    for size in range(2, 12):
        layer.q = size / 4
        run(torch.randn(size, size + 3))
    assert counter.frame_count == 1


def test_evaluation_compiles_to_the_identity():
    layer = Sparseout().eval()
    run, counter = compiled(layer)
    x = torch.randn(5)
    for q in (1.0, 1.5):
        layer.q = q
        assert torch.equal(run(x), x)
    assert counter.frame_count <= 1


def test_the_backward_mask_of_a_compiled_layer_is_its_forward_mask():
    torch.compiler.reset()
    ones = torch.ones(1000, requires_grad=True)
    y = torch.compile(Sparseout(0.5), backend="aot_eager", fullgraph=True)(ones)
    y.sum().backward()
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(ones.grad, y)


def test_a_changed_model_is_one_graph():
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    model = sparseout.insert_after(sparseout.swap_dropout(model, 1.5).model, nn.ReLU, q=1.0, p=0.2).model
    run, counter = compiled(model)
    x = torch.randn(3, 5)
    torch.manual_seed(0)
    y = run(x)
    torch.manual_seed(0)
    torch.testing.assert_close(y, model(x))
    assert counter.frame_count == 1
