"""Training history: a line of JSON for each `Probe.log`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparseout.probe.records import Summary


def append(path: Path, step: int, summary: Summary) -> None:
    """Append the measures of each layer at `step`."""
    layers = [{"layer": record.layer, "mode": record.mode, "call": record.call, **record.measures()} for record in summary.layers]
    with path.open("a") as file:
        file.write(json.dumps({"step": step, "layers": layers}, allow_nan=False) + "\n")


def read(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a history.

    Raises:
        ValueError: a line is something else; which one is said.
    """
    lines = []
    for number, text in enumerate(Path(path).read_text().splitlines(), 1):
        try:
            line = json.loads(text)
            lines.append({"step": line["step"], "layers": [dict(layer) for layer in line["layers"]]})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number}: this is no line of a probe's history ({error})") from error
    return lines
