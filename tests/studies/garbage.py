"""Contents that no reader may accept, and a command whose output shows how it ends."""

from sparseout.cli.main import main

DEEP = 3000
GARBAGE = {
    "empty": b"",
    "blank": b"\n",
    "half": b'{"run": "0123',
    "words": b"nonsense",
    "deep list": b"[" * DEEP + b"]" * DEEP,
    "deep object": b'{"run":' * DEEP + b"1" + b"}" * DEEP,
    "no UTF-8": b'{"run": "\xff\xfe"}',
    "UTF-16": '{"run": "x"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"run": "x"}',
    "NUL": b'{"run": "\0"}',
    "only NUL": b"\0" * 64,
    "a key twice": b'{"run": "x", "run": "y"}',
    "1e400": b'{"seconds": 1e400}',
    "5,000 digits": b'{"seed": ' + b"9" * 5000 + b"}",
    "NaN": b'{"q": NaN}',
    "Infinity": b'{"q": -Infinity}',
    "null": b"null",
    "true": b"true",
    "a number": b"3",
    "a word": b'"x"',
    "a list": b"[]",
    "an object": b"{}",
    "a list of objects": b"[{}]",
    "a surrogate": b'{"run": "\\ud800"}',
}


def run(capsys, *arguments):
    """Run a command that may not end in a traceback; return its exit code and its output."""
    code = main(list(map(str, arguments)))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out, captured.err
