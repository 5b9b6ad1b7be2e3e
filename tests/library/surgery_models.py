"""Models for the tests of surgery, and functions that describe them."""

import torch
from hypothesis import strategies as st
from torch import nn

from sparseout import Sparseout, Sparseout1d, Sparseout2d, Sparseout3d

KINDS = {nn.Dropout: Sparseout, nn.Dropout1d: Sparseout1d, nn.Dropout2d: Sparseout2d, nn.Dropout3d: Sparseout3d}
ACTIVATIONS = (nn.ReLU, nn.PReLU)


class Unusual(nn.Dropout):
    def forward(self, input):
        return super().forward(input) + 1


class Marker(nn.Dropout):
    pass


class LockedDropout(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.dropout = dropout

    def forward(self, x):
        return x


class LearntDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.tensor(0.5))


@st.composite
def models(draw):
    """Nested models in which modules may go by several names."""
    kinds = draw(st.lists(st.sampled_from([*KINDS, Marker]), min_size=1, max_size=4))
    pool = [kind(draw(st.floats(0, 1)), draw(st.booleans())) for kind in kinds]
    pool += [nn.Linear(2, 2), nn.ReLU(), nn.PReLU(), nn.BatchNorm1d(2), nn.AlphaDropout(0.1), nn.LSTM(2, 2, 2, dropout=0.1)]
    for _ in range(draw(st.integers(1, 3))):
        chosen = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=4))
        pool.append(nn.Sequential(*chosen) if draw(st.booleans()) else nn.ModuleDict({f"m{i}": m for i, m in enumerate(chosen)}))
    model = nn.Sequential(*pool, nn.Sequential(*draw(st.permutations(pool))))
    return model.train(draw(st.booleans()))


def tree(model):
    """Each name with the object that it stands for."""
    return {name: id(module) for name, module in model.named_modules(remove_duplicate=False)}


def keys(model):
    return [(key, value.shape) for key, value in model.state_dict().items()]
