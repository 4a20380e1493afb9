"""Made-up rows of a study."""

from collections.abc import Iterator

from rhyme.evaluation import Result

FACTS = {"machine": {"cpu": "a chip", "cores": 2, "gpu": None}, "test_items": 1000}


def row(arm: str, seed: int, value: float, *, world: int | None = None, **changes) -> Result:
    """A made-up figure: one world a seed, as in the evidence."""
    world = seed if world is None else world
    values = {
        "system": "study",
        "checkpoint": f"{arm}{seed}",
        "data": "study",
        "data_fingerprint": f"w{world}",
        "protocol": "knn",
        "metric": "top1",
        "value": value,
        "seed": seed,
        "pair": f"w{world}/split/{world}/seed{seed}",
        "items": 1000,
        "encoder": arm,
        "settings": {"k": 10, "split_seed": world, "split": f"60/20/20 by group, seed {world}"},
        "chance": 0.1,
        "command": "python -m benchmarks.evidence",
        "commit": "abc",
        "details": {**FACTS, "job": f"{arm}-{world}", "recipe": "small", "changes": {"a.b": 0.0}},
    }
    return Result(**{**values, **changes})


def study() -> Iterator[Result]:
    """Two arms on three worlds; three sets of fresh weights beside each."""
    for world, (moco, intra) in enumerate([(0.30, 0.41), (0.32, 0.40), (0.34, 0.45)]):
        yield row("image MoCo", world, moco)
        yield row("intra", world, intra)
        for job in ("image MoCo", "intra"):
            for fresh, value in enumerate((0.19, 0.20, 0.24)):
                value += 0.01 * world
                facts = {**FACTS, "job": f"{job}-{world}"}
                yield row("untrained", fresh, value, world=world, details=facts)
