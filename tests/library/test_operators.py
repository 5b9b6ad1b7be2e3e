"""The operators of `torch.library`, called directly: each argument is normalised or rejected."""

import math

import pytest
import torch

ONES = torch.ones(3, 4)


def double(*numbers):
    return torch.tensor(*numbers, dtype=torch.float64)


def arguments(**changed):
    good = {"input": ONES, "seed": torch.tensor([3]), "p": double(0.5), "q": double(1.5), "scale": double(1.0)}
    return {**good, "gradient": "detached", "eps": 1e-6, "shared_dims": [], "backend": None, **changed}


def noise(**changed):
    return torch.ops.sparseout.forward(**arguments(**changed))


def noise_backward(grad=ONES, **changed):
    return torch.ops.sparseout.backward(grad, **arguments(**changed))


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("q", [1.5, 2.0])
@pytest.mark.parametrize(("dims", "counted"), [([-1], [1]), ([-2], [0]), ([-1, 0], [0, 1]), ([1, -2], [0, 1])])
def test_negative_dimensions_count_from_the_end(dims, counted, q, backend):
    settings = {"q": double(q), "backend": backend}
    expected = noise(**settings, shared_dims=counted)
    assert torch.equal(noise(**settings, shared_dims=dims), expected)
    for dim in counted:
        assert torch.equal(expected, expected.narrow(dim, 0, 1).expand_as(expected))
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled):
            ours, theirs = (noise_backward(**settings, shared_dims=which) for which in (dims, counted))
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_opcheck_with_negative_dimensions():
    x = torch.randn(3, 4, requires_grad=True)
    given = tuple(arguments(input=x, q=double(1.7), gradient="exact", shared_dims=[-1]).values())
    torch.library.opcheck(torch.ops.sparseout.forward, given)
    torch.library.opcheck(torch.ops.sparseout.backward, (torch.ones_like(x).requires_grad_(), *given))


@pytest.mark.parametrize("dims", [[-1], [0, -1]])
def test_the_second_derivative_with_negative_dimensions_is_that_with_positive_ones(dims):
    def second(dims):
        x = torch.full((3, 4), 2.0, requires_grad=True)
        (grad,) = torch.autograd.grad(noise(input=x, gradient="exact", shared_dims=dims).sum(), x, create_graph=True)
        return torch.autograd.grad(grad.sum(), x)[0]

    assert second(dims).abs().sum() > 0
    assert torch.equal(second(dims), second([dim % 2 for dim in dims]))


REFUSED = [
    ({"p": double(1.5)}, ValueError, "p must be .* got 1.5"),
    ({"p": double(-0.5)}, ValueError, "p must be .* got -0.5"),
    ({"p": double(math.nan)}, ValueError, "p must be .* got nan"),
    ({"p": double([0.5, 0.5])}, TypeError, "p must be"),
    ({"q": double(-1.0)}, ValueError, "q must be .* got -1"),
    ({"q": double(math.nan)}, ValueError, "q must be .* got nan"),
    ({"q": double(math.inf)}, ValueError, "q must be .* got inf"),
    ({"seed": torch.tensor([3.5])}, TypeError, r"seed must be int64 of shape \(1,\), got float32 of shape \(1,\)"),
    ({"seed": torch.tensor([3], dtype=torch.int32)}, TypeError, "seed must be int64 .* got int32"),
    ({"seed": torch.tensor([1, 2])}, TypeError, r"seed must be .* got int64 of shape \(2,\)"),
    ({"seed": torch.tensor(3)}, TypeError, r"seed must be .* got int64 of shape \(\)"),
    ({"scale": double(0.0)}, ValueError, "scale must be a positive finite number, got 0.0"),
    ({"scale": double(-1.0)}, ValueError, "scale must be"),
    ({"scale": double(math.nan)}, ValueError, "scale must be"),
    ({"scale": double([1.0, 1.0])}, TypeError, "scale must be"),
    ({"gradient": "straight"}, ValueError, "gradient must be one of 'detached', 'exact', got 'straight'"),
    ({"eps": 0.0}, ValueError, "eps must be"),
    ({"eps": -1.0}, ValueError, "eps must be"),
    ({"eps": math.nan}, ValueError, "eps must be"),
    ({"backend": "cuda"}, ValueError, "backend must be one of"),
    ({"shared_dims": [2]}, ValueError, r"shared_dims must lie in \[-2, 1\] .* got 2"),
    ({"shared_dims": [-3]}, ValueError, r"shared_dims must lie in \[-2, 1\] .* got -3"),
    ({"shared_dims": [0, 0]}, ValueError, "shared_dims must name each dimension once"),
    ({"shared_dims": [0, -2]}, ValueError, "shared_dims must name each dimension once"),
    ({"input": ONES.long()}, TypeError, "input must be .* got int64"),
    ({"input": ONES.to_sparse()}, TypeError, "input must be a dense tensor"),
    ({"input": ONES.bool()}, TypeError, "input must be .* got bool"),
]


@pytest.mark.parametrize(("changed", "error", "message"), REFUSED)
@pytest.mark.parametrize("operator", [noise, noise_backward])
def test_bad_arguments_are_named(operator, changed, error, message):
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled), pytest.raises(error, match=message):
            operator(**changed)


@pytest.mark.parametrize(
    ("grad", "error", "message"),
    [
        (torch.ones(4), ValueError, r"grad must be of the shape of input, \(3, 4\), got \(4,\)"),
        (torch.ones(4, 3), ValueError, "grad must be of the shape of input"),
        (torch.ones(3, 4, 1), ValueError, "grad must be of the shape of input"),
        (ONES.double(), TypeError, "grad must be of the dtype of input, float32, got float64"),
        (ONES.long(), TypeError, "grad must be float16, .* got int64"),
        (ONES.to_sparse(), TypeError, "grad must be a dense tensor"),
        (ONES.to("meta"), ValueError, "grad must be on the device of input, cpu, got one on meta"),
    ],
)
def test_a_gradient_unlike_the_input_is_refused(grad, error, message):
    with pytest.raises(error, match=message):
        noise_backward(grad)


def test_a_graph_is_refused_what_its_operators_are():
    for changed in ({"shared_dims": [2]}, {"gradient": "straight"}, {"eps": 0.0}):
        with pytest.raises(ValueError, match=next(iter(changed))):
            noise(
                **{
                    **{name: value.to("meta") for name, value in arguments().items() if isinstance(value, torch.Tensor)},
                    **changed,
                }
            )
