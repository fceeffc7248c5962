"""The command line. Nothing heavy is imported here, so that `list` and `--help` answer at once."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from types import ModuleType

from benchmark.commands import (
    add,
    advise,
    audit,
    bench,
    bundle,
    challenge,
    embed,
    explain,
    export,
    listing,
    pin,
    prepare,
    recommend,
    report,
    results,
    run,
    speed,
    verify,
)
from benchmark.commands.options import Parser, use_data_dir
from benchmark.process.exit_status import ExitCode, exit_status
from methods.errors import unknown

DESCRIPTION = "AdaptRec: compare ways of adapting a language model to sequential recommendation."
COMMANDS: dict[str, ModuleType] = {
    "prepare": prepare,
    "audit": audit,
    "run": run,
    "bench": bench,
    "report": report,
    "results": results,
    "advise": advise,
    "explain": explain,
    "bundle": bundle,
    "verify": verify,
    "add": add,
    "export": export,
    "recommend": recommend,
    "embed": embed,
    "challenge": challenge,
    "speed": speed,
    "pin": pin,
    "list": listing,
}
"""Name -> module with SUMMARY, add_arguments(parser) and main(options)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    return exit_status(lambda: _dispatch(list(sys.argv[1:] if arguments is None else arguments)))


def _dispatch(arguments: list[str]) -> int:
    parser, commands = parsers()
    if arguments == ["--version"]:
        print(f"adaptrec {version('adaptrec')}")
        return ExitCode.OK
    if arguments and (own := commands.get(arguments[0])):
        for name in (argument.partition("=")[0] for argument in arguments if argument.startswith("--")):
            if name not in own.options:  # argparse would first complain of what is missing
                raise unknown(f"option of `{own.prog}`:", name, own.options)
    options = parser.parse_args(arguments)
    use_data_dir(options)
    warnings.filterwarnings("ignore", message="The pynvml package is deprecated")
    command: Callable[[argparse.Namespace], int] = options.main
    return command(options)


def parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the command line, and those of its commands by name."""
    parser = Parser(prog="adaptrec", description=DESCRIPTION)
    parser.add_argument("--version", action="store_true", help="print the version and end")
    sub = parser.add_subparsers(dest="command", metavar="command", required=True, parser_class=Parser)
    commands: dict[str, Parser] = {}
    for name, module in COMMANDS.items():
        commands[name] = sub.add_parser(name, help=module.SUMMARY, description=module.SUMMARY)
        commands[name].set_defaults(main=module.main)
        module.add_arguments(commands[name])
    return parser, commands
