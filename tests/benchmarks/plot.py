"""Bar charts of the processor section: a row of processor time per request, a row of requests a second."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # no display

from matplotlib import pyplot as plt

from tests.benchmarks.proxies import GATEWAY
from tests.benchmarks.sections.processor import Figures

OURS = "tab:orange"
THEIRS = "tab:blue"


def draw(figures: Sequence[Figures], path: Path) -> None:
    cases = list(dict.fromkeys(figure.case for figure in figures))
    picture, axes = plt.subplots(2, len(cases), figsize=(4 * len(cases), 6), squeeze=False, layout="constrained")
    for column, case in enumerate(cases):
        found = [figure for figure in figures if figure.case == case]
        names = [figure.proxy for figure in found]
        colours = [OURS if name == GATEWAY.name else THEIRS for name in names]
        costs = [figure.microseconds_per_request for figure in found]
        rates = [figure.requests_per_second for figure in found]
        for row, (title, values) in enumerate(
            ((f"{case}: µs of processor time per request", costs), (f"{case}: requests a second", rates))
        ):
            axis = axes[row][column]
            bars = axis.barh(names, values, color=colours)
            axis.bar_label(bars, fmt="{:,.0f}", padding=3)
            axis.set_title(title, fontsize=9)
            axis.margins(x=0.3)
            axis.locator_params(axis="x", nbins=5)
            axis.invert_yaxis()
    picture.savefig(path, dpi=120)
    plt.close(picture)
