"""What a percent of sparsity buys: train two networks to 60, 80 and 90 % zeros, and measure score, speed and size.

    python examples/cash_in.py --out runs/inference --data-dir FOLDER

Each network is trained by Sparseout and by other methods, all of them controlled by a `SparsityTarget`. Then `skip_zeros` and
`drop_dead` make it faster. All times are those of one thread, at batch 1, of versions of a network that take turns with a network
that was trained without a method. The folder gets cash-in.jsonl, a line a network, and cash-in.png.

All networks are trained before the first one is measured, and their weights are kept in the folder `weights`. A second run trains
only what is not there, so the measurement can wait until the machine is idle: `--train-only`, then the same command without it.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import shlex
from pathlib import Path
from typing import Any

import torch
from cash_in_autoencoder import Autoencoder
from cash_in_figure import write_figure
from cash_in_transformer import Transformer
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

import sparseout
from sparseout.inference import observe
from sparseout.inference.timing import Timer
from sparseout.records.files import write_atomic
from sparseout.records.json_lines import to_json
from sparseout.records.provenance import provenance

TARGETS = (0.6, 0.8, 0.9)
METHODS = ("sparseout", "l1", "hoyer_square", "k_winners")
QUICK = {
    "autoencoder": Autoencoder(dataset="digits", hidden_size=64),
    "transformer": Transformer(vocabulary=100, hidden_size=64, ffn_size=128, layers=1, first_steps=2, steps=4, new_tokens=4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/inference"), help="folder for the results")
    parser.add_argument("--data-dir", type=Path, help="folder with mnist/ (default: the Hugging Face hub)")
    parser.add_argument("--models", nargs="+", choices=QUICK, default=list(QUICK), help="the networks to train")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="the ways to make them sparse")
    parser.add_argument("--targets", nargs="+", type=float, default=list(TARGETS), help="the fractions of zeros to ask for")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for the measurement of each network")
    parser.add_argument("--train-only", action="store_true", help="train the networks, and measure nothing")
    parser.add_argument("--quick", action="store_true", help="small networks and hardly any training, to try the program")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    full = {"autoencoder": Autoencoder(data_dir=chosen.data_dir), "transformer": Transformer()}
    studies = [(QUICK if chosen.quick else full)[name] for name in chosen.models]
    words = ["--models", *chosen.models, "--methods", *chosen.methods, "--targets", *map(str, chosen.targets)]
    command = shlex.join(["python", "examples/cash_in.py", *words, "--seconds", str(chosen.seconds), *["--quick"] * chosen.quick])
    contenders: list[tuple[Any, str, float]] = []
    for study in studies:
        methods = [method for method in chosen.methods if method in study.methods]
        contenders += [(study, "none", 0.0), *((study, *each) for each in itertools.product(methods, chosen.targets))]
    for study, method, target in contenders:
        trained(study, method, target, chosen.out / "weights")
        print(f"trained: {study.name}, {method}, {target:g}", flush=True)
    if chosen.train_only:
        return
    records: list[dict[str, Any]] = []
    for study, method, target in contenders:
        plain, network = (trained(study, *which, chosen.out / "weights") for which in (("none", 0.0), (method, target)))
        record = {"model": study.name, "method": method, "target": target or None, "seed": 0}
        record |= measure(study, plain, network, chosen.seconds)
        records.append({**record, "provenance": {**provenance(command, torch.device("cpu")), "threads": 1}})
        lines = "".join(to_json(each) + "\n" for each in records)
        write_atomic(chosen.out / "cash-in.jsonl", lines.encode())
        print(summary(record), flush=True)
    write_figure(records, chosen.out / "cash-in.png")


def trained(study: Any, method: str, target: float, folder: Path) -> nn.Module:
    """Return a trained network in evaluation mode: from its files in `folder`, or trained now if they are of another training."""
    stem = folder / f"{study.name}-{method}-{target:g}"
    weights, settings = stem.with_name(f"{stem.name}.safetensors"), stem.with_name(f"{stem.name}.json")
    network = study.build(method, seed=0)
    made_by = repr(study)
    if settings.exists() and (saved := json.loads(settings.read_text()))["made_by"] == made_by:
        load_model(network, weights)
        sparseout.apply_config(network, saved["config"])
        return network.eval()
    study.train(network, method, target, seed=0)
    folder.mkdir(parents=True, exist_ok=True)
    settings.unlink(missing_ok=True)
    save_model(network, str(weights))
    write_atomic(settings, to_json({"made_by": made_by, "config": sparseout.config(network)}).encode())
    return network.eval()


def measure(study: Any, plain: nn.Module, network: nn.Module, seconds: float) -> dict[str, Any]:
    """Return the zeros of a network, its profile, and the score, speed and size of its versions.

    A speed is the time of `plain` divided by that of a version.
    """
    inputs = study.timed()

    def example(network: nn.Module) -> None:
        for x in inputs:
            study.call(network, x)

    drop = study.drop(network)
    skip = sparseout.skip_zeros(network, example)
    reports = {
        "skip_zeros": skip,
        "skip_zeros, bfloat16": sparseout.skip_zeros(network, example, weights="bfloat16"),
        "drop_dead": drop,
        "drop_dead, skip_zeros": sparseout.skip_zeros(drop.model, example),
    }
    versions = {"plain": plain, "dense": network, **{name: report.model for name, report in reports.items()}}
    timer = Timer()
    with torch.no_grad():
        times = timer.measure({name: (functools.partial(study.call, each), inputs) for name, each in versions.items()}, seconds)
    reference = times["plain"]
    return {
        **zeros_of(study, network),
        "removed": sum(len(each.removed) for each in drop.dropped),
        "profile": profile(network, example, timer),
        "bound": {"cold": skip.cold_bound, "warm": skip.warm_bound},
        "versions": {
            name: {
                **study.evaluate(each),
                "megabytes": sum(p.numel() * p.element_size() for p in each.parameters()) / 1e6,
                "milliseconds": {"cold": 1e3 * times[name].cold / len(inputs), "warm": 1e3 * times[name].warm / len(inputs)},
                "speed": {"cold": reference.cold / times[name].cold, "warm": reference.warm / times[name].warm},
                "replaced": list(getattr(reports.get(name), "replaced", ())),
            }
            for name, each in versions.items()
            if name != "plain"
        },
    }


@torch.no_grad()
def zeros_of(study: Any, network: nn.Module) -> dict[str, float]:
    """Return the fraction of zeros that the readers get, the union of 8 samples, and the number of units not seen to fire."""
    seen: dict[nn.Module, list[Tensor]] = {layer: [] for layer in study.hidden(network)}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: seen[layer].append(inputs[0].reshape(-1, inputs[0].shape[-1]) != 0))
        for layer in seen
    ]
    study.evaluate(network)
    for hook in hooks:
        hook.remove()
    active = [torch.cat(each) for each in seen.values()]
    unions = [each[: len(each) // 8 * 8].view(-1, 8, each.shape[1]).any(1).float().mean().item() for each in active]
    return {
        "zeros": 1 - sum(each.float().mean().item() for each in active) / len(active),
        "union_of_8": sum(unions) / len(unions),
        "silent": sum(int((~each.any(0)).sum()) for each in active),
        "units": sum(each.shape[1] for each in active),
    }


def profile(network: nn.Module, example: Any, timer: Timer) -> dict[str, float]:
    """Return the fraction of the time with cold weights that linear layers of each name take."""
    groups: dict[str, dict[str, nn.Linear]] = {}
    for name, layer in network.named_modules():
        if type(layer) is nn.Linear:
            groups.setdefault(name.rpartition(".")[2], {})[name] = layer
    run = observe.runner(network, example)
    return {group: observe.time_shares(network, run, layers, timer.fill_cache)[0] for group, layers in groups.items()}


def summary(record: dict[str, Any]) -> str:
    """One line for a network."""
    versions = record["versions"]
    speeds = ", ".join(f"{name} {each['speed']['cold']:.2f}x" for name, each in versions.items())
    asked = "" if record["target"] is None else f" asked for {record['target']:.0%}"
    loss = versions["dense"]["test_loss"]
    return f"{record['model']}, {record['method']}{asked}: {record['zeros']:.1%} zeros, test loss {loss:.4f}, {speeds}"


if __name__ == "__main__":
    main()
