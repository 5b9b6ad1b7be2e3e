"""What to do after a probe: a sentence, and the lines of code that follow from it."""

from __future__ import annotations

from torch import nn

from sparseout.records.layer_record import LayerRecord
from sparseout.records.probe_summary import Summary
from sparseout.report.roles import role_of
from sparseout.report.verdict import SPARSE, Line, dead_units, is_dead

_FIND_NAN = """leaves = lambda name, module: not list(module.children())
with sparseout.Probe(model, layers=leaves) as probe:
    model(batch)
print([record.name for record in probe.summary().layers if record.nonfinite_vectors][:1])"""
_LOWER_Q = """for layer in model.modules():
    if isinstance(layer, sparseout.Sparseout):
        layer.q = 1.0"""
_RECURRENT = ("RNN", "LSTM", "GRU")  # their output is a tuple, which no layer can follow
HALF = 0.5


def next_steps(summary: Summary, mode: str) -> list[Line]:
    """Return what to do next, the most urgent first. `model`, `loader` and `batch` in the code are the reader's own."""
    records = summary.layers
    healthy = [record for record in records if not record.nonfinite_vectors and not is_dead(record)]
    lines = []
    if any(record.nonfinite_vectors for record in records):
        lines.append(Line("next", "Find the first module, in the order of the model, whose output has NaN or Inf:", _FIND_NAN))
    if dead := next((record for record in records if is_dead(record)), None):
        text = f"Look at what feeds {dead.name}. A ReLU is dead if its input is never positive; this prints the largest:"
        lines.append(Line("next", text, _largest_input(dead)))
    if any(dead_units(record) and record.type == "ReLU" for record in healthy):
        text = "Remove dead units between linear layers. The model becomes smaller, and the report says if its outputs change:"
        lines.append(Line("next", text, "report = sparseout.drop_dead(model, loader)\nprint(report)"))
    if step := _see_more(summary):
        lines.append(step)
    if healthy and all(dead_units(record) is None for record in healthy):
        lines.append(Line("next", "Count dead units:", 'probe = sparseout.Probe(model, measures="all", samples=3)'))
    return lines + _about_sparsity([record for record in healthy if record.mode == mode])


def _largest_input(record: LayerRecord) -> str:
    return (
        f"layer = model.get_submodule({record.layer!r})\n"
        "layer.register_forward_pre_hook(lambda layer, args: print(args[0].max()))\n"
        "model(batch)"
    )


def _see_more(summary: Summary) -> Line | None:
    """Say how to see a computation that has no module of its own."""
    name = next((name for name, reason in summary.unseen.items() if "without a module" in reason), None)
    if name is not None:
        text = f"Measure the output of {name or 'the model'}, which calls a function that a probe cannot see:"
        return Line("next", text, f"probe = sparseout.Probe(model, layers={name!r})")
    name = next((name for name, reason in summary.unseen.items() if reason == "never called"), None)
    if name is not None:
        text = f"Check whether forward uses {name}: it was registered and never called, so a swap or a target would do nothing."
        return Line("next", text)
    return None


def _about_sparsity(records: list[LayerRecord]) -> list[Line]:
    """Say how to use zeros that are there, or how to get sparser activations."""
    if any(record.zeros is not None and record.zeros >= HALF for record in records):
        text = "Measure whether skipping these zeros makes the trained model faster on this processor:"
        return [Line("next", text, "report = sparseout.skip_zeros(model.eval(), batch)\nprint(report)")]
    sparse = sum(record.hoyer is not None and record.hoyer >= SPARSE for record in records)
    if not records or sparse >= HALF * len(records):
        return []
    if any(record.type.endswith("Sparseout") for record in records):
        text = "To get sparser activations, train with a smaller q:"
        return [Line("next", text, _LOWER_Q)]
    text = "To get sparser activations, train with Sparseout and q below 2. This puts it in place:"
    return [Line("next", text, f"model = {_insertion(records)}.model")]


def _insertion(records: list[LayerRecord]) -> str:
    first = next((record for record in records if record.type not in _RECURRENT), records[0])
    if any(record.type.startswith("Dropout") for record in records):
        return "sparseout.swap_dropout(model, q=1.5)"
    if any(role_of(record) == "feed-forward" for record in records):
        return 'sparseout.insert_after(model, where="mlp", q=1.5, p=0.5)'
    kind = f"torch.nn.{first.type}" if hasattr(nn, first.type) else f"type(model.get_submodule({first.layer!r}))"
    return f"sparseout.insert_after(model, {kind}, q=1.5, p=0.5)"
