"""The samples that a page shows beside the units they excite: text around a token, or a small image."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from sparseout.records.layer_record import LayerRecord
from sparseout.records.unit_activity import Excitation

if TYPE_CHECKING:
    import PIL.Image

SIDE = 56  # pixels of a thumbnail
BUDGET = 1_000_000  # characters of all samples of a page


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """A token in its context. `token` is empty if the whole text is meant."""

    before: str
    token: str = ""
    after: str = ""


Show = Callable[[Excitation], "Excerpt | PIL.Image.Image | None"]


def key_of(sample: Excitation) -> str:
    """Return the name of a sample on a page."""
    return f"{sample.rank}/{sample.sample}/{sample.position}/{sample.positions}"


def samples_of(records: Iterable[LayerRecord], show: Show | None) -> dict[str, dict[str, str]]:
    """Return what `show` makes of the samples that excite units, by `key_of`, until they fill the budget of the page."""
    found: dict[str, dict[str, str]] = {}
    images: dict[int, dict[str, str]] = {}
    room = BUDGET
    for excitation in _excitations(records) if show else ():
        if key_of(excitation) in found or room <= 0:
            continue
        if excitation.sample in images:
            found[key_of(excitation)] = images[excitation.sample]
            continue
        assert show is not None
        sample = show(excitation)
        if sample is None:
            continue
        if isinstance(sample, Excerpt):
            found[key_of(excitation)] = dataclasses.asdict(sample)
        else:
            found[key_of(excitation)] = images[excitation.sample] = {"image": _data_uri(sample)}
        room -= sum(map(len, found[key_of(excitation)].values()))
    return found


def _excitations(records: Iterable[LayerRecord]) -> Iterable[Excitation]:
    """Yield the samples of this process. Those of other ranks have indices in data that this process may not have."""
    for record in records:
        if activity := record.unit_activity:
            for unit in (*activity.quietest, *activity.loudest):
                yield from (sample for sample in unit.samples if not sample.rank)


def _data_uri(image: Any) -> str:
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
