"""Checks of a `transformers` model's files before any is loaded: only safetensors, and no file missing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparseout.errors import UserError

PROCESSORS = ("preprocessor_config.json", "processor_config.json", "image_processor_config.json")


def folder_of(name: str) -> Path | None:
    """Return the folder called `name`, or its folder in the hub's cache; None if there is neither."""
    if Path(name).is_dir():
        return Path(name)
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError):
        return None


def check_weights(folder: Path) -> list[str]:
    """Check that all weights come from safetensors files in `folder`, and return remarks on the files.

    Raises:
        UserError: weights may come from other files.
    """
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        raise UserError(f"{adapter} marks an adapter of another model: merge it into that model and save the result")
    config = folder / "config.json"
    settings = _object(config) if config.exists() else {}
    explicit = settings.get("transformers_weights")
    if explicit is not None:
        _check_file_name(config, "transformers_weights", explicit, (".safetensors", ".safetensors.index.json"))
    for index in folder.glob("*.safetensors.index.json"):
        shards = _object(index).get("weight_map")
        if not isinstance(shards, dict):
            raise UserError(f"{index} must hold a weight_map from weights to files, got {type(shards).__name__}")
        for weight, shard in shards.items():
            _check_file_name(index, f"weight_map[{weight!r}]", shard, (".safetensors",))
            if not (folder / shard).is_file():
                raise UserError(f"{index} names {shard}, which is not in {folder}")
    if "auto_map" in settings:
        return ["config.json refers to custom code (auto_map), which is not run: the code of transformers is used instead"]
    return []


def check_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Check that the folder has one of the tokenizer's vocabulary files."""
    files = [*dict.fromkeys(["tokenizer.json", *tokenizer.vocab_files_names.values()])]
    if tokenizer.vocab_files_names and not any((folder / file).is_file() for file in files):
        raise UserError(f"{folder} has no tokenizer: {' or '.join(files)} is missing")


def check_processor(folder: Path) -> None:
    """Check that the folder has an image processor."""
    if not any((folder / file).is_file() for file in PROCESSORS):
        raise UserError(f"{folder} has no image processor: {PROCESSORS[0]} is missing")


def check_vocabulary(name: str, tokenizer: Any, lines: Iterable[str], most: float) -> list[str]:
    """Return a remark if some tokens of `lines` are unknown to the tokenizer of the model `name`.

    Raises:
        UserError: there are no tokens, or a fraction above `most` is unknown.
    """
    tokens = [token for ids in tokenizer(list(lines), add_special_tokens=False)["input_ids"] for token in ids]
    if not tokens:
        raise UserError(f"the tokenizer of {name} finds no token in the text: does its vocabulary belong to the model?")
    unknown = tokens.count(tokenizer.unk_token_id) if tokenizer.unk_token_id is not None else 0
    remark = f"the tokenizer of {name} does not know {unknown:,} of the first {len(tokens):,} tokens of the text"
    if unknown > most * len(tokens):
        raise UserError(f"{remark}, which become {tokenizer.unk_token}: does its vocabulary fit the model and the text?")
    return [f"{remark}, which become {tokenizer.unk_token}"] if unknown else []


def _check_file_name(file: Path, field: str, name: Any, endings: tuple[str, ...]) -> None:
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(endings):
        wanted = " or ".join(f"*{ending}" for ending in endings)
        raise UserError(f"{file}: {field} must name a file {wanted} in the same folder, as pickles are refused, got {name!r}")


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold a JSON object, got a {type(found).__name__}")
    return found
