"""A swap reads the source code of the model for layers that may never be called and for dropout without a module."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import dropout as plain

import sparseout

X = torch.ones(2, 4, 8)
NEVER = "never calls it, and reads its p for functional dropout"
SOMETIMES = "calls it in some settings, and in others reads its p for functional dropout"


def attend(x, p):
    return F.scaled_dot_product_attention(x, x, x, None, p)


def eager(module, x, dropout):
    return module.drop(x) if dropout else x


def helper(x):
    return F.dropout(x, 0.25)


class Holder(nn.Module):
    """A module with a dropout."""

    def __init__(self, p=0.1):
        super().__init__()
        self.drop = nn.Dropout(p)


class Called(Holder):
    def forward(self, x):
        return self.drop(x)


class Forwarded(Holder):
    def forward(self, x):
        return self.drop.forward(x)


class HandedOn(Holder):
    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.drop, x, use_reentrant=False)


class Alias(Holder):
    def forward(self, x):
        drop = self.drop
        return drop(x)


class LooksFirst(Holder):
    def forward(self, x):
        if self.drop.p > 0 and self.drop is not None:
            x = self.drop(x)
        return x + (self.drop.p > 1)


class InAnotherMethod(Holder):
    def forward(self, x):
        return self._inner(x)

    def _inner(self, x):
        return self.drop(x)


class Inherits(Called):
    def forward(self, x):
        return super().forward(x)


class Iterates(Holder):
    def forward(self, x):
        for module in self.children():
            x = module(x)
        return x


class ByName(Holder):
    def forward(self, x):
        return getattr(self, "drop")(x)  # noqa: B009


class ThroughAFunction(Holder):
    def forward(self, x):
        return eager(self, x, 1)


def wrapped(function):
    def call(self, x):
        return function(self, x)

    return call


class Wrapped(Holder):
    @wrapped
    def forward(self, x):
        return self.drop(x)


class Fused(Holder):
    def forward(self, x):
        return attend(x, self.drop.p if self.training else 0.0)


class FusedByAName(Holder):
    def forward(self, x):
        p = 0.0 if not self.training else self.drop.p
        return F.scaled_dot_product_attention(x, x, x, dropout_p=p)


class Functional(Holder):
    def forward(self, x):
        return F.dropout(x, self.drop.p, self.training)


class OverridesACaller(Called):
    def forward(self, x):
        return attend(x, self.drop.p)


class Switch(Holder):
    fused = True

    def forward(self, x):
        return attend(x, self.drop.p) if self.fused else self.drop(x)


class SwitchInAFunction(Holder):
    fused = True

    def forward(self, x):
        return attend(x, self.drop.p) if self.fused else eager(self, x, self.drop.p)


class Forgotten(Holder):
    def forward(self, x):
        return x


class Outer(nn.Module):
    """Calls the dropout of its submodule."""

    def __init__(self):
        super().__init__()
        self.inner = Forgotten()

    def forward(self, x):
        return self.inner.drop(x)


class OfAList(nn.Module):
    def __init__(self):
        super().__init__()
        self.drops = nn.ModuleList([nn.Dropout(0.1)])

    def forward(self, x):
        for drop in self.drops:
            x = drop(x)
        return x


@pytest.mark.parametrize(
    "kind",
    [
        *(Called, Forwarded, HandedOn, Alias, LooksFirst, InAnotherMethod, Inherits),
        *(Iterates, ByName, ThroughAFunction, Wrapped, Outer, OfAList),
    ],
)
def test_a_dropout_that_is_called_is_not_listed_apart(kind):
    report = sparseout.swap_dropout(nn.Sequential(kind()), 1.5)
    assert len(report.changes) == 1
    assert report.uncalled == ()
    if kind is not Forwarded:  # a call of forward runs no hooks, so the check cannot see it
        assert sparseout.check_swap(report.model, X).never_ran == ()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Fused, f"Fused {NEVER}"),
        (FusedByAName, f"FusedByAName {NEVER}"),
        (Functional, f"Functional {NEVER}"),
        (OverridesACaller, f"OverridesACaller {NEVER}"),
        (Switch, f"Switch {SOMETIMES}"),
        (SwitchInAFunction, f"SwitchInAFunction {SOMETIMES}"),
        (Forgotten, "no code of Forgotten calls it"),
    ],
)
def test_a_dropout_that_may_never_be_called_is_listed_apart(kind, reason):
    report = sparseout.swap_dropout(nn.Sequential(kind(), Called()), 1.5)
    assert report.uncalled == (("0.drop", reason),)
    assert str(report).splitlines() == [
        "1 swapped in a copy: use report.model, or pass inplace=True",
        "  1.drop: Dropout(p=0.1, inplace=False) -> Sparseout(p=0.1, q=1.5)",
        "1 swapped, but may never be called: run check_swap",
        f"  0.drop: {reason}",
    ]
    assert report.to_dict()["uncalled"] == [{"name": "0.drop", "reason": reason}]
    assert sparseout.check_swap(report.model, X).never_ran == ("0.drop",)


def test_code_that_cannot_be_read_is_named():
    scope = {"Holder": Holder}
    exec("class Hidden(Holder):\n    def forward(self, x):\n        return self.drop(x)", scope)
    report = sparseout.swap_dropout(nn.Sequential(scope["Hidden"]()), 1.5)
    assert report.uncalled == (("0.drop", "the source code of Hidden cannot be read"),)
    replaced = Called()
    replaced.forward = functools.partial(Called.forward, replaced)
    assert dict(sparseout.swap_dropout(nn.Sequential(replaced), 1.5).uncalled) == {
        "0.drop": "the source code of Called cannot be read"
    }


def test_a_forward_that_was_replaced_is_read():
    model = Called()
    model.forward = Fused.forward.__get__(model)
    assert dict(sparseout.swap_dropout(model, 1.5).uncalled) == {"drop": f"Called {SOMETIMES}"}


class Rates(nn.Module):
    """Calls dropout functions with its own probabilities."""

    def __init__(self, forward, **rates):
        super().__init__()
        self.rate, self.none, self.flag = 0.2, 0.0, True
        self.config = type("Config", (), {"rate": 0.3})


def rates(function):
    return type("Rates", (Rates,), {"forward": function})(function)


@pytest.mark.parametrize(
    ("forward", "calls"),
    [
        (lambda: Drops.own, ["passes its rate=0.2 to dropout"]),
        (lambda: Drops.configured, ["passes its config.rate=0.3 to dropout"]),
        (lambda: Drops.attention, ["passes its rate=0.2 to scaled_dot_product_attention"]),
        (lambda: Drops.by_an_interface, ["passes its rate=0.2 to interface"]),
        (lambda: Drops.constant, ["calls dropout with p=0.1"]),
        (lambda: Drops.default, ["calls dropout with p=0.5"]),
        (lambda: Drops.imported, ["passes its rate=0.2 to dropout"]),
        (lambda: Drops.in_a_function, ["calls dropout with p=0.25"]),
        (lambda: Drops.one_variable, ["passes its rate=0.2 to dropout1d", "passes its rate=0.2 to dropout"]),
        (lambda: Drops.nothing, []),
    ],
)
def test_dropout_without_a_module_is_named(forward, calls):
    model = nn.Sequential(rates(forward()), nn.Dropout())
    report = sparseout.swap_dropout(model, 1.5)
    assert report.unreachable == tuple(("0", f"Rates {call}") for call in calls)
    assert bool(sparseout.check_swap(report.model, X).dropout) == bool(calls)


class Drops:
    def own(self, x):
        return F.dropout(x, self.rate, training=self.training)

    def configured(self, x):
        return F.dropout(x, p=self.config.rate, training=self.training)

    def attention(self, x):
        return F.scaled_dot_product_attention(x, x, x, None, self.rate if self.training else 0.0)

    def by_an_interface(self, x):
        interface = {"fused": lambda x, dropout: attend(x, dropout)}["fused"]
        return interface(x, dropout=0.0 if not self.training else self.rate)

    def constant(self, x):
        return nn.functional.dropout(x, 0.1, self.training)

    def default(self, x):
        return F.dropout(x)

    def imported(self, x):
        return plain(x, self.rate)

    def in_a_function(self, x):
        return helper(x)

    def one_variable(self, x):
        p = self.rate
        x = F.dropout1d(x, p)
        return F.dropout(x, p)

    def nothing(self, x):
        x = F.dropout(F.dropout(x, self.none), self.rate, training=False)
        return F.dropout(x, 0.0) + self.flag


def test_reading_changes_no_model_and_draws_nothing():
    model = nn.Sequential(Fused(), Called())
    before, state = repr(model), torch.get_rng_state()
    sparseout.swap_dropout(model, 1.5)
    assert repr(model) == before
    assert torch.equal(torch.get_rng_state(), state)
