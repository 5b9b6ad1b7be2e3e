"""Records of runs that were not trained, as those that were leave them."""

import json


def summary(config, **results):
    """The summary of a run: measures that are the same for all, but for `results`."""
    measures = {"hoyer": 0.5, "zeros": 0.5, "rms": 1.0}
    measures |= {name: value for name, value in results.items() if name in measures}
    profile = [round(1 - i / 64, 5) for i in range(65)]
    settings = config.to_dict()
    return {
        "study": settings.pop("study"),
        "run": config.run,
        **settings,
        "test_loss": 0.25,
        **measures,
        "layers": {"noise": {**measures, "units": 64, "vectors": 360, "zero_vectors": 0, "profile": profile}},
        **results,
        "seconds": 5.0,
        "provenance": {"sparseout": "0", "torch": "2", "cpu": "a cpu", "date": "today", "command": config.command},
    }


def write_run(out, config, **results):
    """The folder of a complete run, without its weights."""
    folder = out / config.folder
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), "run": config.run}))
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "test_loss": 1.5, "seconds": 4.0}\n')
    (folder / "summary.json").write_text(json.dumps(summary(config, **results)))
    return folder


def write_study(out, configs):
    """The folder of a study with these runs, complete."""
    out.mkdir(exist_ok=True)
    (out / "study.json").write_text(json.dumps({"study": configs[0].study}))
    return [write_run(out, config) for config in configs]


def numbers(record):
    """Return a record without what differs between two runs of the same numbers."""
    return {key: value for key, value in record.items() if key not in ("seconds", "provenance")}


def published_numbers(out):
    """Return the `numbers` of the records in the results of a study's folder."""
    return [numbers(json.loads(line)) for line in (out / "results.jsonl").read_text().splitlines()]
