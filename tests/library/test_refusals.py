"""Invalid arguments of the op: an error of one line names the argument, before anything is drawn."""

import math

import pytest
import torch

import sparseout


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"p": -0.1}, ValueError, r"p must be a drop probability in \[0, 1\], got -0.1"),
        ({"p": 1.5}, ValueError, "p must be .* got 1.5"),
        ({"p": math.nan}, ValueError, "p must be .* got nan"),
        ({"p": True}, TypeError, "p must be .* got True of type bool"),
        ({"p": "0.5"}, TypeError, "p must be .* got '0.5' of type str"),
        ({"p": None}, TypeError, "p must be .* got None"),
        ({"q": -1}, ValueError, "q must be a finite norm of at least 0, got -1"),
        ({"q": math.inf}, ValueError, "q must be .* got inf"),
        ({"q": math.nan}, ValueError, "q must be .* got nan"),
        ({"q": False}, TypeError, "q must be .* got False of type bool"),
        ({"q": "2"}, TypeError, "q must be .* got '2' of type str"),
        ({"gradient": "straight"}, ValueError, "gradient must be one of 'detached', 'exact', got 'straight'"),
        ({"eps": 0.0}, ValueError, "eps must be None or a positive finite number, got 0.0"),
        ({"eps": -1e-6}, ValueError, "eps must be"),
        ({"eps": "small"}, TypeError, "eps must be"),
        ({"shared_dims": (2,)}, ValueError, r"shared_dims must lie in \[-2, 1\] for an input of 2 dimensions, got 2"),
        ({"shared_dims": (0, -2)}, ValueError, "shared_dims must name each dimension once"),
        ({"shared_dims": (1.0,)}, TypeError, "shared_dims must be integers, got 1.0"),
        ({"shared_dims": 1.5}, TypeError, "shared_dims must be"),
        ({"generator": 5}, TypeError, "generator must be None or a torch.Generator, got int"),
        ({"backend": "cuda"}, ValueError, "backend must be one of 'cpu', 'gpu', 'reference', got 'cuda'"),
        ({"backend": "gpu"}, ValueError, "backend is 'gpu', which cannot be used here: input is on cpu"),
        ({"p": torch.tensor(1.5)}, ValueError, r"p must be a drop probability in \[0, 1\], got 1.5"),
        ({"q": torch.ones(2)}, TypeError, "q must be a finite norm of at least 0, got tensor"),
        ({"input": [1.0]}, TypeError, "input must be a torch.Tensor, got list"),
        ({"input": torch.ones(2, dtype=torch.int64)}, TypeError, r"input must be .* got int64: .*input.float\(\)"),
        ({"input": torch.ones(2, dtype=torch.bool)}, TypeError, "input must be .* got bool"),
        ({"input": torch.ones(2, dtype=torch.complex64)}, TypeError, "input must be .* got complex64"),
        ({"input": torch.ones(2).to_sparse()}, TypeError, "input must be a dense tensor, got a sparse_coo one"),
        ({"input": torch.ones(()), "shared_dims": 0}, ValueError, "shared_dims must be empty for an input of 0 dimensions"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_bad_input_is_named_and_nothing_is_drawn(arguments, error, message, training):
    before = torch.get_rng_state()
    with pytest.raises(error, match=message) as raised:
        sparseout.sparseout(**{"input": torch.ones(2, 3), "training": training, **arguments})
    assert "\n" not in str(raised.value)
    assert torch.equal(torch.get_rng_state(), before)
