"""What a gateway held over time, drawn: memory, open files, tasks."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no display

from matplotlib import pyplot as plt


def draw(samples: Sequence[Any], path: Path) -> None:
    """Draw each figure of the samples over their seconds."""
    figures = {"memory": "MiB of memory", "files": "open files", "tasks": "tasks"}
    picture, axes = plt.subplots(len(figures), 1, figsize=(9, 7), sharex=True, layout="constrained")
    seconds = [sample.seconds for sample in samples]
    for axis, (name, title) in zip(axes, figures.items(), strict=True):
        axis.plot(seconds, [asdict(sample)[name] for sample in samples], color="tab:orange")
        axis.set_ylabel(title)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("seconds")
    picture.savefig(path, dpi=120)
    plt.close(picture)
