"""The command `sparseout`: finds the command's package, and turns a user's mistake into one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import sparseout


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 if a run failed, 2 for a user's mistake, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(f"sparseout {sparseout.__version__}")
        return 0
    try:
        import tyro

        from sparseout.bench.command import bench
        from sparseout.probing.command import probe
        from sparseout.studies.commands import study_app, sweep_command
        from sparseout.studies.config import UserError
        from sparseout.studies.evaluation import evaluate
        from sparseout.studies.results import results
        from sparseout.studies.sampling import sample
    except ModuleNotFoundError as error:
        print(f"sparseout: this command needs {error.name}: pip install 'sparseout[studies]'", file=sys.stderr)
        return 2
    try:
        app = tyro.extras.SubcommandApp()
        app.command(name="probe")(probe)
        app.command(study_app(arguments), name="study", help="Run one of the paper's experiments.")
        app.command(sweep_command(), name="sweep")
        app.command(name="results")(results)
        app.command(name="evaluate")(evaluate)
        app.command(name="sample")(sample)
        app.command(name="bench")(bench)
        description = "Control and measure activation sparsity in PyTorch."
        code: int | None = app.cli(prog="sparseout", description=description, args=arguments)
    except UserError as error:
        print(f"sparseout: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output, such as head, has read enough; what is left must go nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code or 0
