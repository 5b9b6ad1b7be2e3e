"""The history that `Probe.log` writes: one line of JSON per call."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from sparseout.records.probe_summary import Summary


def append_history(path: Path, step: int, summary: Summary) -> None:
    """Append a line with the measures of each layer at `step`."""
    layers = [{"layer": record.layer, "mode": record.mode, "call": record.call, **record.measures()} for record in summary.layers]
    with path.open("a") as file:
        file.write(json.dumps({"step": step, "layers": layers}, allow_nan=False) + "\n")


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a history that `Probe.log` wrote: dictionaries with `step` and `layers`.

    Raises:
        ValueError: a line is not such a record. The message names the line.
    """
    lines = []
    for number, text in enumerate(Path(path).read_bytes().splitlines(), 1):
        try:
            lines.append(_line(json.loads(text)))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: not a line of a probe's history ({error})") from error
    return lines


def _line(line: Any) -> dict[str, Any]:
    if type(line["step"]) is not int:
        raise TypeError(f"step must be an integer, got {line['step']!r}")
    layers = [dict(layer) for layer in line["layers"]]
    for layer in layers:
        if not isinstance(layer["layer"], str):
            raise TypeError(f"layer must be a name, got {layer['layer']!r}")
        for name, value in layer.items():
            if name not in ("layer", "mode") and not (value is None or (type(value) in (int, float) and math.isfinite(value))):
                raise TypeError(f"{name} must be a finite number or null, got {value!r}")
    return {"step": line["step"], "layers": layers}
