"""`hf:NAME_OR_FOLDER`: a `transformers` model from the hub's cache or a folder, on lines of text or images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sparseout.cli.probe import files, samples
from sparseout.cli.probe.hub_files import check_processor, check_tokenizer, check_vocabulary, check_weights, folder_of
from sparseout.cli.probe.probed_model import ProbedModel
from sparseout.errors import UserError
from sparseout.records.unit_activity import Excitation
from sparseout.user_code import first_line

CHECKED_LINES = 1000  # lines of text whose tokens are looked up in the vocabulary
MAX_UNKNOWN = 0.9  # fraction of unknown tokens


def load(name: str, data: Sequence[Path], batch_size: int) -> ProbedModel:
    """Load a model from safetensors files, without running code from its folder, and its input from the files `data`.

    An encoder-decoder model gets the text as both input and target.

    Raises:
        UserError: the model is missing or damaged, or the data does not fit it.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise UserError("hf: needs transformers: pip install 'sparseout[probe]'") from error
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    inputs = files.list_files(data)
    images = files.are_images(inputs)
    show: Callable[[Excitation], Any]
    folder = folder_of(name)
    remarks = check_weights(folder) if folder else []
    model, loaded = _from(transformers.AutoModel, name, use_safetensors=True, output_loading_info=True)
    missing = sorted(loaded["missing_keys"])
    remarks += [f"missing from the checkpoint, so randomly initialised: {', '.join(missing)}"] if missing else []
    if images:
        if folder:
            check_processor(folder)
        processor = _from(transformers.AutoImageProcessor, name, backend="pil")
        batches: Iterator[Any] = _image_batches(processor, inputs, batch_size)
        count, show = len(inputs), samples.image_files(inputs)
    else:
        lines = files.read_lines(inputs)
        tokenizer = _from(transformers.AutoTokenizer, name)
        if folder:
            check_tokenizer(folder, tokenizer)
        remarks += check_vocabulary(name, tokenizer, lines[:CHECKED_LINES], MAX_UNKNOWN)
        tokens = _tokenized(tokenizer, model.config)
        batches = _text_batches(tokens, model.config, lines, batch_size)
        count, show = len(lines), samples.TokensInContext(tokenizer, lines, batch_size, tokens)
    title = Path(name).absolute().name if Path(name).is_dir() else name
    return ProbedModel(model.eval(), batches, math.ceil(count / batch_size), remarks, show=show, name=title)


def _from(kind: Any, name: str, **options: Any) -> Any:
    """Load an auto class of transformers from this machine, without downloads."""
    try:
        return kind.from_pretrained(name, local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:
        there = "the folder" if Path(name).is_dir() else f"the hub's cache (`hf download {name}` downloads it) or as a folder"
        what = {"AutoTokenizer": "tokenizer", "AutoImageProcessor": "image processor"}.get(kind.__name__, "model")
        raise UserError(f"hf:{name} has no usable {what} in {there}: {type(error).__name__}: {first_line(error)}") from error


def _tokenized(tokenizer: Any, config: Any) -> Callable[[Sequence[str]], Any]:
    """Return a function that tokenizes a batch of lines, with padding."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # A tokenizer without a limit has 1e30.
    limits = [n for n in (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)) if n and n < 2**31]
    options = {"padding": True, "truncation": bool(limits), "max_length": min(limits, default=None), "return_tensors": "pt"}
    return lambda lines: tokenizer(list(lines), **options)


def _text_batches(tokens_of: Callable[[Sequence[str]], Any], config: Any, lines: Sequence[str], batch_size: int) -> Iterator[Any]:
    for start in range(0, len(lines), batch_size):
        tokens = tokens_of(lines[start : start + batch_size])
        if config.is_encoder_decoder:
            tokens |= {"decoder_input_ids": tokens["input_ids"], "decoder_attention_mask": tokens["attention_mask"]}
        yield tokens


def _image_batches(processor: Any, paths: Sequence[Path], batch_size: int) -> Iterator[Any]:
    for start in range(0, len(paths), batch_size):
        yield processor([files.read_image(path) for path in paths[start : start + batch_size]], return_tensors="pt")
