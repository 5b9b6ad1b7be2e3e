"""`hf:NAME_OR_FOLDER`: a `transformers` model from the hub's cache or a folder, on lines of text or pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sparseout.cli.probe import files
from sparseout.cli.probe.hub_files import check_processor, check_tokenizer, check_vocabulary, check_weights, folder_of
from sparseout.cli.probe.subject import Subject, first_line
from sparseout.errors import UserError

LOOKED_AT = 1000  # lines of the text, for words that the tokenizer does not know
MOST_UNKNOWN = 0.9


def load(name: str, data: Sequence[Path], batch_size: int) -> Subject:
    """The model called `name` from safetensors alone, without code of its own, and its input from the files `data`.

    An encoder-decoder reads the text on both sides.

    Raises:
        UserError: the model is not there, is damaged, or cannot take the data.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise UserError("hf: needs transformers: pip install 'sparseout[probe]'") from error
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    inputs = files.listed(data)
    pictures = files.are_pictures(inputs)
    folder = folder_of(name)
    remarks = check_weights(folder) if folder else []
    model, loaded = _from(transformers.AutoModel, name, use_safetensors=True, output_loading_info=True)
    missing = sorted(loaded["missing_keys"])
    remarks += [f"not in the checkpoint, so random: {', '.join(missing)}"] if missing else []
    if pictures:
        if folder:
            check_processor(folder)
        processor = _from(transformers.AutoImageProcessor, name, backend="pil")
        batches: Iterator[Any] = _pictures(processor, inputs, batch_size)
        count = len(inputs)
    else:
        lines = files.texts(inputs)
        tokenizer = _from(transformers.AutoTokenizer, name)
        if folder:
            check_tokenizer(folder, tokenizer)
        remarks += check_vocabulary(name, tokenizer, lines[:LOOKED_AT], MOST_UNKNOWN)
        batches, count = _texts(tokenizer, model.config, lines, batch_size), len(lines)
    return Subject(model.eval(), batches, math.ceil(count / batch_size), remarks)


def _from(kind: Any, name: str, **options: Any) -> Any:
    """One of transformers' automatic classes, from what is on this machine."""
    try:
        return kind.from_pretrained(name, local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:
        there = "the folder" if Path(name).is_dir() else f"the hub's cache (`hf download {name}` puts it there) or as a folder"
        what = {"AutoTokenizer": "tokenizer", "AutoImageProcessor": "image processor"}.get(kind.__name__, "model")
        raise UserError(f"hf:{name} has no usable {what} in {there}: {type(error).__name__}: {first_line(error)}") from error


def _texts(tokenizer: Any, config: Any, lines: Sequence[str], batch_size: int) -> Iterator[Any]:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # A tokenizer without a limit says 1e30.
    limits = [n for n in (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)) if n and n < 2**31]
    options = {"padding": True, "truncation": bool(limits), "max_length": min(limits, default=None), "return_tensors": "pt"}
    for start in range(0, len(lines), batch_size):
        tokens = tokenizer(lines[start : start + batch_size], **options)
        if config.is_encoder_decoder:
            tokens |= {"decoder_input_ids": tokens["input_ids"], "decoder_attention_mask": tokens["attention_mask"]}
        yield tokens


def _pictures(processor: Any, paths: Sequence[Path], batch_size: int) -> Iterator[Any]:
    for start in range(0, len(paths), batch_size):
        yield processor([files.picture(path) for path in paths[start : start + batch_size]], return_tensors="pt")
