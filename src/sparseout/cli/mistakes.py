"""What the command line prints about arguments that it cannot parse: the mistake, the closest flag, and a usage."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence


def explain(
    panel: str, arguments: Sequence[str], commands: Mapping[str, Collection[str]], help_of: Callable[[list[str]], str]
) -> list[str]:
    """Return the lines to print: the mistake, and for an unknown flag or command also the usage of the command alone.

    Args:
        panel: the error panel of tyro.
        arguments: the command line.
        commands: names of the commands, each with the names of its own commands.
        help_of: returns the help of a command, which is a list of words such as `["study", "autoencoder"]`.

    >>> help_of = lambda words: "usage: sparseout results [-h]\\n\\n| --score NAME |"
    >>> explain("", ["results", "--scor", "f1"], {"results": ()}, help_of)
    ['unknown option --scor: did you mean --score?', 'usage: sparseout results [-h]']
    """
    words = _command(arguments, commands)
    rest = arguments[len(words) :]
    known = (commands, commands[words[0]] if words else (), ())[len(words)]
    if known and rest and not rest[0].startswith("-"):
        mistakes = [f"unknown command {rest[0]}{_closest(rest[0], known)}"]
        return [*mistakes, _usage(help_of(words))]
    text = help_of(words)
    flags = {"--help", *re.findall(r"(?<=[ │|])--[a-z][\w-]*", text)} if words else {"--help", "--version"}
    given = [argument.partition("=")[0] for argument in rest if re.match("--[a-zA-Z]", argument)]
    unknown = [flag for flag in dict.fromkeys(given) if flag.replace("_", "-") not in flags]
    if unknown:
        mistakes = [f"unknown option {flag}{_closest(flag, flags)}" for flag in unknown]
        return ["; ".join(mistakes), _usage(text)]
    return [one_line(panel), *([_usage(text)] if "Unrecognized" in panel else [])]


def one_line(panel: str) -> str:
    """Return an error panel of tyro as one line: the message, then the usage of the argument.

    >>> one_line("+- Error --+\\n| Error parsing --q: no\\n| parse: ['x'] |\\n| --- |\\n| Help: |\\n| --q FLOAT |\\n+----+\\n")
    "Error parsing --q: no parse: ['x'] (--q FLOAT)"
    """
    lines = [line.strip(" │|") for line in panel.strip().splitlines()[1:]]
    parts = "\n".join(line if line.strip("─-╰╯+") else "\n" for line in lines).split("\n\n")
    message, *rest = filter(str.strip, parts)
    usage = next((line for part in rest for line in part.splitlines() if line.startswith("--")), "")
    return " ".join(message.split()) + (f" ({usage})" if usage else "")


def _command(arguments: Sequence[str], commands: Mapping[str, Collection[str]]) -> list[str]:
    """Return the words at the start of the command line that name a command."""
    if not arguments or arguments[0] not in commands:
        return []
    return list(arguments[: 1 + (arguments[1:2] != [] and arguments[1] in commands[arguments[0]])])


def _closest(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name.replace("_", "-"), sorted(known), 1)
    return f": did you mean {close[0]}?" if close else ""


def _usage(text: str) -> str:
    """Return the usage at the start of a help text, in one line."""
    return " ".join(text.strip().partition("\n\n")[0].split())
