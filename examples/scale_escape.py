"""How networks escape a penalty on activations by scale: activations shrink, and the next layer's weights grow.

    python examples/scale_escape.py

trains a 64-256-64 ReLU autoencoder on scikit-learn's digits without a penalty and with several, and writes
docs/scale-escape.png and docs/scale-escape.json, in half a minute on one core. It needs `sparseout[studies]`.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

import sparseout
from sparseout import regularizers
from sparseout.metrics import hoyer
from sparseout.records.files import write_atomic
from sparseout.records.json_lines import to_json
from sparseout.records.provenance import provenance
from sparseout.report.figure import COLOURS, GREY, save
from sparseout.studies.data import mnist

UNITS, BATCH, SEED = 256, 128, 0
# At these strengths, L1 with and without its reader reach about the same sparseness.
PENALTIES: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "no penalty": lambda reader: nn.Identity(),
    "L1": lambda reader: regularizers.L1(0.03),
    "L1 with reader": lambda reader: regularizers.L1(0.1, reader=reader),
    "transformed L1": lambda reader: regularizers.TransformedL1(0.03),
    "DeCov": lambda reader: regularizers.DeCov(0.1),
    "HoyerSquare": lambda reader: regularizers.HoyerSquare(0.01),
}
PANELS = {
    "rms": "RMS of the non-zero activations",
    "reader": "Norm of the columns that read them",
    "hoyer": "Hoyer sparseness",
    "weighted_l1": "L1 norm, weighted by these columns",
}


def measure(encoder: nn.Module, decoder: nn.Linear, images: Tensor) -> dict[str, float]:
    """Return the scale and the sparsity of the representation of `images`, and the loss per image.

    `reader` is the mean norm of the decoder's columns, each weighted by the mean activation that it reads. `weighted_l1` is
    `mean_b sum_j |x_bj| |W_:j|`, which does not depend on how scale is divided between activations and columns.
    """
    with torch.no_grad():
        hidden, norms = encoder(images), decoder.weight.norm(dim=0)
        loss = F.binary_cross_entropy_with_logits(decoder(hidden), images) * images.shape[1]
        means = hidden.mean(0)
        values = {
            "rms": hidden[hidden > 0].square().mean().sqrt().item(),
            "reader": (means @ norms / means.sum()).item(),
            "hoyer": hoyer(hidden).mean().item(),
            "l1": means.sum().item(),
            "weighted_l1": (means @ norms).item(),
            "loss": loss.item(),
        }
        return {name: float(f"{value:.4g}") for name, value in values.items()}


def train(build: Callable[[nn.Linear], nn.Module], data: mnist.Images, epochs: int) -> list[dict[str, float]]:
    """Train an autoencoder by Adam; return the measures before training and after each epoch."""
    torch.manual_seed(SEED)
    pixels = data.train.shape[1]
    encoder, decoder = nn.Sequential(nn.Linear(pixels, UNITS), nn.ReLU()), nn.Linear(UNITS, pixels)
    model = nn.Sequential(encoder, build(decoder), decoder)
    penalised = any(isinstance(module, regularizers.Penalty) for module in model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    history = [measure(encoder, decoder, data.test)]
    for _ in range(epochs):
        for batch in data.train[torch.randperm(len(data.train))].split(BATCH):
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(model(batch), batch) * pixels
            (loss + sparseout.penalty(model) if penalised else loss).backward()
            optimizer.step()
        history.append(measure(encoder, decoder, data.test))
    return history


def draw(histories: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draw each measure over the epochs, with a line for each penalty."""
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    panels = figure.subplots(1, len(PANELS))
    for axes, (measured, title) in zip(panels, PANELS.items(), strict=True):
        for (name, history), colour in zip(histories.items(), (GREY, *COLOURS), strict=False):
            line = "--" if "reader" in name or name == "HoyerSquare" else "-"
            axes.plot([each[measured] for each in history], line, color=colour, linewidth=2, label=name)
        axes.set_title(title, loc="left", weight="bold", fontsize=9)
        axes.set_xlabel("epoch")
        axes.set_ylim(bottom=0)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(histories), frameon=False)
    save(figure, path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs", help="folder of the two files")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data = mnist.load("digits")
    histories = {name: train(build, data, options.epochs) for name, build in PENALTIES.items()}
    command = shlex.join(["python", "examples/scale_escape.py", "--epochs", str(options.epochs)])
    record = {"provenance": provenance(command, torch.device("cpu")), "seed": SEED, "histories": histories}
    write_atomic(options.out / "scale-escape.json", (to_json(record) + "\n").encode())
    draw(histories, options.out / "scale-escape.png")
    for name, history in histories.items():
        print(f"{name:15}", *(f"{measured} {value:.3f}" for measured, value in history[-1].items()))


if __name__ == "__main__":
    main()
