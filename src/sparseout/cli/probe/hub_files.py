"""The files of a `transformers` model, looked at before any is loaded: safetensors alone, and nothing that is missing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparseout.errors import UserError

PROCESSORS = ("preprocessor_config.json", "processor_config.json", "image_processor_config.json")


def folder_of(name: str) -> Path | None:
    """The folder that is called `name`, or that the hub's cache has for it; None if there is none."""
    if Path(name).is_dir():
        return Path(name)
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError):
        return None


def check_weights(folder: Path) -> list[str]:
    """Remarks on the files of a model.

    Raises:
        UserError: its weights may come from anything but safetensors files in `folder` itself.
    """
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        raise UserError(f"{adapter} makes this an adapter of another model: merge it into that model, and save the result")
    config = folder / "config.json"
    settings = _object(config) if config.exists() else {}
    explicit = settings.get("transformers_weights")
    if explicit is not None:
        _check_name(config, "transformers_weights", explicit, (".safetensors", ".safetensors.index.json"))
    for index in folder.glob("*.safetensors.index.json"):
        shards = _object(index).get("weight_map")
        if not isinstance(shards, dict):
            raise UserError(f"{index} must hold a weight_map, each weight's file, got {type(shards).__name__}")
        for weight, shard in shards.items():
            _check_name(index, f"weight_map[{weight!r}]", shard, (".safetensors",))
            if not (folder / shard).is_file():
                raise UserError(f"{index} names {shard}, which is not in {folder}")
    if "auto_map" in settings:
        return ["config.json names code of the model's own (auto_map), which is not run: transformers' own is, if it has it"]
    return []


def check_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Refuse a tokenizer that none of its files made: it has no vocabulary."""
    files = [*dict.fromkeys(["tokenizer.json", *tokenizer.vocab_files_names.values()])]
    if tokenizer.vocab_files_names and not any((folder / file).is_file() for file in files):
        raise UserError(f"{folder} has no tokenizer: {' or '.join(files)} is missing")


def check_processor(folder: Path) -> None:
    """Refuse a folder without an image processor."""
    if not any((folder / file).is_file() for file in PROCESSORS):
        raise UserError(f"{folder} has no image processor: {PROCESSORS[0]} is missing")


def check_vocabulary(name: str, tokenizer: Any, lines: Iterable[str], most: float) -> list[str]:
    """A remark if some of the tokens of `lines` are unknown to the tokenizer of the model `name`.

    Raises:
        UserError: there are no tokens, or a fraction above `most` is unknown.
    """
    tokens = [token for ids in tokenizer(list(lines), add_special_tokens=False)["input_ids"] for token in ids]
    if not tokens:
        raise UserError(f"the tokenizer of {name} finds no token in the text: is its vocabulary the model's?")
    unknown = tokens.count(tokenizer.unk_token_id) if tokenizer.unk_token_id is not None else 0
    said = f"the tokenizer of {name} does not know {unknown:,} of the first {len(tokens):,} tokens of the text"
    if unknown > most * len(tokens):
        raise UserError(f"{said}, which become {tokenizer.unk_token}: is its vocabulary the model's, and the text's?")
    return [f"{said}, which become {tokenizer.unk_token}"] if unknown else []


def _check_name(file: Path, field: str, name: Any, endings: tuple[str, ...]) -> None:
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(endings):
        wanted = " or ".join(f"*{ending}" for ending in endings)
        raise UserError(f"{file}: {field} must be the name of a file {wanted} beside it, as pickles are refused, got {name!r}")


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold a JSON object, got a {type(found).__name__}")
    return found
