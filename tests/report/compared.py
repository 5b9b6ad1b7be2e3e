"""Records of runs of several methods that were not trained."""


def record(method, seed, sparsity, loss, target=None, **changes):
    """The summary of a run with the measured `sparsity`; with a `target`, of a run that was controlled to it."""
    found = {
        "study": "autoencoder",
        "run": f"{method}-{seed}-{target}-{sorted(changes.items())}",
        "seed": seed,
        "regularizer": method,
        "dataset": "digits",
        "test_loss": loss,
        "hoyer": sparsity,
        "zeros": sparsity,
        "rms": 1.0,
        "layers": {"noise": {"zero_vectors": 0, "vectors": 10, "profile": [1.0, 0.5, 0.0]}},
        "seconds": 10.0,
        "provenance": {"sparseout": "0", "torch": "2", "cpu": "a cpu", "date": "today", "command": "sparseout study"},
    }
    if method == "sparseout":
        found |= {"p": 0.5, "gradient": "detached"} | ({} if target else {"q": 2.0})
    if target is not None:
        course = {"value": [2.0, 1.5, 1.25], "measured": [0.5, 0.6, 0.7]}
        final = {
            "dial": "q" if method == "sparseout" else "strength",
            "value": 1.25,
            "settled": 0.3 + seed / 100,
            "out_of_reach": False,
        }
        control = {"achieved": sparsity, **final, "course": course}
        found |= {"target_sparsity": target, "target_measure": "hoyer", "control": control}
    return found | changes


def curve(method, seed, losses, shift=0.0, **changes):
    """The runs of a seed with the targets in `losses`, each of which was missed by `shift`."""
    return [record(method, seed, target + shift, loss, target, **changes) for target, loss in losses.items()]
