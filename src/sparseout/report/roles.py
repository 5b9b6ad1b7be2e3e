"""The role of a layer in its model, from its name: what a plot by depth must not join into one line."""

from __future__ import annotations

import re

from sparseout.records.layer_record import LayerRecord

ROLES = ("embedding", "attention output", "feed-forward", "residual", "other")

_ATTENTION = r"attn|attention|\bdropout1$"  # dropout1 and dropout2: torch's own transformer layers
_WEIGHTS = r"(attn|attention)_?(drop|dropout|weights|probs)$|drop(out)?_?(attn|attention)$|self\.dropout$|softmax"
_FEED_FORWARD = (
    r"mlp|ffn|\bff\b|feed_?forward|intermediate|\bfc[12]?\b|linear[12]$|\bwi\b|\bwo\b|experts|\bdense_(h_to_4h|relu_dense)"
)
_RESIDUAL = r"resid|shortcut|skip|drop_?path|stochastic_depth"
_BLOCK = r"(Block|Bottleneck|EncoderLayer|DecoderLayer|[a-z0-9]Layer)$"
_BLOCK_PART = r"(layers?|blocks?|h)\.\d+\.(output\.dropout|dropout2?|activation|act|activation_fn|act_fn)$"


def role_of(record: LayerRecord) -> str:
    """Return the role of a layer, one of `ROLES`. A name that says nothing gives `"other"`.

    An output of attention is any layer inside attention but its weights, which are `"other"`. The residual stream is the output
    of a whole block, or a layer named after it.
    """
    name, kind = record.layer, record.type
    if _found(r"embed|\bwte\b|\bwpe\b", name) or "Embedding" in kind:
        return "embedding"
    if _found(_WEIGHTS, name) or "Softmax" in kind:
        return "other"
    if _found(_ATTENTION, name) or "Attention" in kind:
        return "attention output"
    if _found(_FEED_FORWARD, name) or _found(_BLOCK_PART, name):
        return "feed-forward"
    if _found(_RESIDUAL, name) or kind == "DropPath" or (re.search(r"(^|\.)\d+$", name) and re.search(_BLOCK, kind)):
        return "residual"
    return "other"


def _found(pattern: str, name: str) -> bool:
    return re.search(pattern, name, re.IGNORECASE) is not None
