"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import resource
import signal
import sys
from pathlib import Path

from .backend import BackendError
from .measure import WorkerError
from .progress import Progress
from .render import as_text, draw, write_report
from .result import Options, Result

# Each is a module here with ``run(options) -> Result``.
BENCHMARKS = {
    "reuse": "how many connections the calls open",
    "cost": "client CPU and wall time of a call",
    "scale": "what more nodes cost",
    "faults": "what calls notice of a node that fails",
    "tls": "what a handshake costs",
}

_NEEDED = ("alternator", "boto3", "matplotlib", "trustme")
_HERE = Path(__file__).parent


def main(arguments: list[str] | None = None) -> int:
    """Run benchmarks; returns the exit status."""
    given = _parse(arguments)
    names = given.names or list(BENCHMARKS)
    problem = _problem(names)
    if problem:
        print(problem, file=sys.stderr)
        return 2
    # An end from outside must end nginx and the workers, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    whole = not given.names
    # Only the whole run at full length replaces the report that is kept with the source.
    folder = given.output or (_HERE if whole and not given.quick else _HERE / "output")
    folder.mkdir(parents=True, exist_ok=True)
    _allow_many_files()
    options = Options(quick=given.quick, progress=Progress(len(names), show=True))
    results: list[Result] = []
    try:
        for name in names:
            result: Result = importlib.import_module(f"benchmarks.{name}").run(options)
            options.progress.end()
            print(f"{as_text(result)}\n", flush=True)
            for picture in result.pictures:
                print(f"picture: {draw(picture, folder)}", flush=True)
            print(flush=True)
            results.append(result)
    except (BackendError, WorkerError) as error:
        options.progress.end()
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        options.progress.end()
        return 130
    if whole:
        print(f"report: {write_report(results, folder, quick=given.quick)}")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare this library with plain boto3 and others, against nginx on loopback. "
        "Without a name, all run (about six minutes) and write a report.",
        epilog="benchmarks: " + "; ".join(f"{name}: {what}" for name, what in BENCHMARKS.items()),
    )
    parser.add_argument("names", nargs="*", metavar="benchmark")
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where pictures go")
    return parser.parse_args(arguments)


def _problem(names: list[str]) -> str | None:
    for name in names:
        if name not in BENCHMARKS:
            return f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}"
    for module in _NEEDED:
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed; do: pip install 'alternator-lb[benchmarks]'"
    return None


def _allow_many_files() -> None:
    """A connection is an open file at both ends; nginx and the workers inherit this limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16_384 if hard == resource.RLIM_INFINITY else min(hard, 16_384)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
