"""The command line: ``python -m alternator_lb``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import textwrap
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import botocore
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import InsecureRequestWarning

from . import demo
from ._version import __version__
from .addresses import DEFAULT_PORTS, Seed, split_seed
from .errors import AlternatorError, InvalidSettingError, MissingExtraError
from .nodes import AlternatorNodes

__all__ = ["main"]

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

WIDTH = 96  # of the texts below

DESCRIPTION = """\
Make boto3 use every node of a ScyllaDB Alternator cluster: see it at work, look at a cluster."""

EXAMPLES = """\
examples:
  {prog} demo
      start a cluster on this machine and watch one boto3 client use all of it
  {prog} demo --endpoint http://10.0.0.1:8000 --key alternator --secret secret_pass
      the same with a cluster of yours; a table is made for it, and deleted
  {prog} nodes http://10.0.0.1:8000
      list the nodes of a cluster, and how each one is
"""

DEMO = """\
Start a cluster on this machine, write and read items through one patched boto3 client, and show
which node served what. A node stops meanwhile, and returns. It takes a few seconds.

With --endpoint, a cluster of yours is used: no node is stopped, and the table that is made has a
name of its own and is deleted at the end."""

RULE = textwrap.fill(
    f"The exit status is 0 if {demo.RULE}. It is 1 if not, and 2 if something is missing, or wrong "
    "on the command line.",
    WIDTH,
)

NODES = """\
Ask a cluster for its nodes and probe each of them; show its state, since when, why, and when a
running client would probe it next. The exit status is 0 if any node told, 1 if none did."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: those of the process where None.

    Returns:
        The exit status: 0 if all went well, 1 if not, 2 for what was wrong with the command line
        or is not installed, 130 after Ctrl-C.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if "run" not in given:
        parser.print_help()
        return USAGE
    try:
        status: int = given.run(given)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Nobody reads on, as in "... | head"; the interpreter would complain while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (InvalidSettingError, MissingExtraError) as error:
        return _fail(error, USAGE)
    except ImportError as error:
        return _fail(f"{error}: pip install 'alternator-lb[testing]'", USAGE)
    except (AlternatorError, BotoCoreError, ClientError, OSError) as error:
        return _fail(error, FAILED)


def _fail(why: object, status: int) -> int:
    print(f"alternator-lb: {why}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    prog = os.path.basename(sys.argv[0])
    prog = "python -m alternator_lb" if prog == "__main__.py" else prog
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog, description=DESCRIPTION, epilog=EXAMPLES.format(prog=prog), formatter_class=raw
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"alternator-lb {__version__} (botocore {botocore.__version__}, "
        f"urllib3 {version('urllib3')}, Python {platform.python_version()})",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    shows = commands.add_parser(
        "demo",
        help="watch one boto3 client use a whole cluster",
        description=DEMO,
        epilog=RULE,
        formatter_class=raw,
    )
    shows.set_defaults(run=_demo, error=shows.error)
    shows.add_argument(
        "--items", type=_positive, default=300, metavar="N", help="items to write and to read (300)"
    )
    shows.add_argument(
        "--threads", type=_positive, default=4, metavar="N", help="threads that make calls (4)"
    )
    shows.add_argument("--plain", action="store_true", help="plain lines on a terminal, too")
    here = shows.add_argument_group("a cluster on this machine")
    here.add_argument("--nodes", type=_positive, metavar="N", help="nodes to start (3)")
    here.add_argument("--tls", action="store_true", help="have them speak https")
    yours = shows.add_argument_group("a cluster of yours")
    yours.add_argument("--endpoint", metavar="URL", help="a node, such as http://10.0.0.1:8000")
    yours.add_argument("--key", help="the access key id; requests are not signed without it")
    yours.add_argument("--secret", help="the secret key")
    _add_tls(yours)

    lists = commands.add_parser(
        "nodes", help="list the nodes of a cluster", description=NODES, formatter_class=raw
    )
    lists.set_defaults(run=_nodes, error=lists.error)
    lists.add_argument(
        "seeds", nargs="+", metavar="URL", help="nodes to ask, such as http://10.0.0.1:8000"
    )
    _add_tls(lists.add_argument_group("https"))
    return parser


def _add_tls(group: Any) -> None:
    group.add_argument(
        "--ca-certs", metavar="PATH", help="CA certificates to trust besides the system's"
    )
    group.add_argument("--insecure", action="store_true", help="do not check certificates")
    group.add_argument("--server-hostname", metavar="NAME", help="the name in the certificates")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not possible; give a number above 0")
    return int(text)


def _tls_settings(given: argparse.Namespace) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if given.ca_certs is not None:
        settings["ca_certs"] = given.ca_certs
    if given.server_hostname is not None:
        settings["server_hostname"] = given.server_hostname
    if given.insecure:
        settings["verify"] = False
        # It was asked for: one warning for each connection tells nothing.
        warnings.simplefilter("ignore", InsecureRequestWarning)
    return settings


def _scheme_and_port(seeds: Sequence[Seed]) -> tuple[str, int]:
    """What the first seed that tells says; like in any URL, http and its port are the default."""
    scheme = next((seed.scheme for seed in seeds if seed.scheme), "http")
    return scheme, next((seed.port for seed in seeds if seed.port), DEFAULT_PORTS[scheme])


# -- demo --------------------------------------------------------------------------------------


def _demo(given: argparse.Namespace) -> int:
    endpoint = None
    if given.endpoint is None:
        for name in ("key", "secret", "ca_certs", "insecure", "server_hostname"):
            if getattr(given, name):
                given.error(f"--{name.replace('_', '-')} goes with --endpoint")
    else:
        if given.nodes is not None or given.tls:
            given.error(f"--{'tls' if given.tls else 'nodes'} does not go with --endpoint")
        if (given.key is None) != (given.secret is None):
            given.error("--key and --secret go together; without both, requests are not signed")
        seed = split_seed(given.endpoint)
        scheme, port = _scheme_and_port([seed])
        endpoint = demo.Endpoint(
            scheme, seed.host, port, given.key, given.secret, _tls_settings(given)
        )
    held = demo.run_demo(
        _display(given.plain),
        endpoint=endpoint,
        nodes=given.nodes or 3,
        items=given.items,
        threads=given.threads,
        tls=given.tls,
    )
    return OK if held else FAILED


def _display(plain: bool) -> demo.Display:
    able = sys.stdout.isatty() and sys.stdout.encoding.lower().startswith("utf")
    if able and not plain and os.environ.get("TERM") != "dumb":
        try:
            return demo.LiveDisplay()
        except ImportError:
            pass
    return demo.Display()


# -- nodes -------------------------------------------------------------------------------------


def _nodes(given: argparse.Namespace) -> int:
    seeds = [split_seed(seed) for seed in given.seeds]
    scheme, port = _scheme_and_port(seeds)
    nodes = AlternatorNodes(scheme, port, *given.seeds, **_tls_settings(given))
    nodes.refresh()
    rows = [
        {
            "NODE": str(node),
            "STATE": of.state,
            "SINCE": f"{of.since:.1f} s",
            "NEXT PROBE": "" if of.next_probe is None else f"in {of.next_probe:.1f} s",
            "WHY": of.reason,
        }
        for node, of in nodes.stats().items()
    ]
    nodes.stop()
    _print_table(rows)
    return OK


def _print_table(rows: Sequence[dict[str, str]]) -> None:
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print(
            "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        )


if __name__ == "__main__":
    sys.exit(main())
