"""The command line. Nothing heavy is imported here, so that `list` and `--help` answer at once."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from benchmark.config import PROTOCOLS
from methods.errors import UserError, unknown

DESCRIPTION = "AdaptRec: compare ways of adapting a language model to sequential recommendation."


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line with the nearest match."""

    def __init__(self, prog: str, description: str, **kwargs: Any) -> None:
        shape = argparse.ArgumentDefaultsHelpFormatter
        super().__init__(prog, description=description, allow_abbrev=False, formatter_class=shape, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise UserError(f"{self.prog}: {message}. `{self.prog} --help` lists the options.")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind = action.metavar or action.dest
            raise unknown(str(kind).lower(), value, action.choices)

    @property
    def options(self) -> list[str]:
        """Every long option of this parser."""
        return [name for action in self._actions for name in action.option_strings if name.startswith("--")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. A user's mistake is one line on stderr and status 2."""
    try:
        return _dispatch(list(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        print(f"adaptrec: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("adaptrec: interrupted; the same command goes on where it stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `adaptrec list methods | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(arguments: list[str]) -> int:
    parser, commands = _parsers()
    if arguments == ["--version"]:
        print(f"adaptrec {version('adaptrec')}")
        return 0
    if arguments and (own := commands.get(arguments[0])):
        for name in (argument.partition("=")[0] for argument in arguments if argument.startswith("--")):
            if name not in own.options:  # argparse would first complain of what is missing
                raise unknown(f"option of `{own.prog}`:", name, own.options)
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", message="The pynvml package is deprecated")
    command: Callable[[argparse.Namespace], int] = options.call
    return command(options)


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    parser = Parser(prog="adaptrec", description=DESCRIPTION)
    parser.add_argument("--version", action="store_true", help="print the version and end")
    sub = parser.add_subparsers(dest="command", metavar="command", required=True, parser_class=Parser)
    found: dict[str, Parser] = {}
    for name, (call, text, fill) in COMMANDS.items():
        found[name] = sub.add_parser(name, help=text, description=text)
        found[name].set_defaults(call=call)
        fill(found[name])
    return parser, found


def _fill_prepare(parser: Parser) -> None:
    parser.add_argument("--dataset", required=True, help="a recipe's name or a folder")
    parser.add_argument("--llm", help="also compute the hidden states of this language model")
    parser.add_argument(
        "--methods", type=_names, help="the methods whose layers to compute; all when left out"
    )
    parser.add_argument(
        "--protocols", "--protocol", type=_names, default=list(PROTOCOLS), help="under which they will run"
    )
    _add_set(parser)


def _fill_run(parser: Parser) -> None:
    parser.add_argument("--dataset", required=True, help="a recipe's name or a folder")
    parser.add_argument("--llm", default="minilm", help="a short name, a hub id or a folder")
    parser.add_argument("--method", required=True, help="see `adaptrec list methods`")
    parser.add_argument(
        "--protocol", default="paper", choices=list(PROTOCOLS), metavar="PROTOCOL", help=_protocols()
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of every random number")
    _add_common(parser)
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last epoch (what happens anyway)"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="discard a finished record or a checkpoint and run anew"
    )


def _fill_bench(parser: Parser) -> None:
    parser.add_argument(
        "--datasets", "--dataset", type=_names, required=True, help="names or folders, by commas"
    )
    parser.add_argument(
        "--llms", "--llm", type=_names, default=["minilm"], help="names, hub ids or folders, by commas"
    )
    parser.add_argument("--methods", "--method", type=_names, help="by commas; every method when left out")
    parser.add_argument(
        "--protocols", "--protocol", type=_names, default=["paper"], help=f"by commas: {_protocols()}"
    )
    parser.add_argument("--seeds", "--seed", type=_numbers, default=[0], help="by commas")
    parser.add_argument("--processes", type=int, default=1, help="processes (GPUs) of each run")
    parser.add_argument(
        "--jobs", type=int, default=1, help="cells at a time, which share the processor: their times mislead"
    )
    _add_common(parser)
    parser.add_argument("--fresh", action="store_true", help="run finished cells anew")


def _fill_speed(parser: Parser) -> None:
    parser.add_argument("--dataset", default="tiny", help="a recipe's name or a folder")
    parser.add_argument("--llm", default="minilm", help="a short name, a hub id or a folder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--method", help="see `adaptrec list methods`")
    what.add_argument(
        "--show", type=Path, nargs="+", metavar="FILE",
        help="time nothing: print the tables of records that --json wrote",
    )  # fmt: skip
    parser.add_argument(
        "--protocol", default="paper", choices=list(PROTOCOLS), metavar="PROTOCOL", help=_protocols()
    )
    parser.add_argument("--steps", type=int, default=30, help="optimiser steps to time")
    parser.add_argument("--warm-up", type=int, default=5, help="optimiser steps before them")
    parser.add_argument("--passes", type=int, default=3, help="evaluation passes to time")
    parser.add_argument(
        "--vary", type=_setting, metavar="KEY=VALUE,VALUE,...",
        help="time once for each value of a setting or hyper-parameter, each in a fresh process",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    _add_set(parser)


def _fill_report(parser: Parser) -> None:
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records")
    parser.add_argument("--out", type=Path, default=Path("reports"), help="folder to write")
    for name in ("datasets", "llms", "methods", "protocols"):
        parser.add_argument(f"--{name}", type=_names, help="only these, by commas")


def _fill_list(parser: Parser) -> None:
    parser.add_argument("what", choices=["methods", "llms", "datasets"], metavar="methods|llms|datasets")


def _add_common(parser: Parser) -> None:
    _add_set(parser)
    parser.add_argument("--epochs", type=int, help="epochs at most; the same as --set epochs=N")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records")


def _add_set(parser: Parser) -> None:
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="settings and hyper-parameters on top of the protocol; docs/settings.md lists them",
    )  # fmt: skip


def _protocols() -> str:
    return "; ".join(f"{name}: {_pairs(values)}" for name, values in PROTOCOLS.items())


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("give at least one name")
    return list(dict.fromkeys(names))


def _setting(text: str) -> tuple[str, list[str]]:
    key, sign, values = text.partition("=")
    if not sign or not key:
        raise argparse.ArgumentTypeError(f"'{text}' is not KEY=VALUE,VALUE,...")
    return key, _names(values)


def _numbers(text: str) -> list[int]:
    try:
        return [int(name) for name in _names(text)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of whole numbers") from error


def _overrides(options: argparse.Namespace) -> tuple[str, ...]:
    pairs = list(options.set)
    if getattr(options, "epochs", None) is not None:
        pairs.append(f"epochs={options.epochs}")
    return tuple(pairs)


def _prepare(options: argparse.Namespace) -> int:
    from benchmark.inputs import prepare_inputs

    lines = prepare_inputs(
        options.dataset, options.llm, options.methods, options.protocols, tuple(options.set)
    )
    for line in lines:
        print(line)
    return 0


def _run(options: argparse.Namespace) -> int:
    from benchmark.cell import Cell
    from benchmark.run import run

    cell = Cell(
        options.dataset, options.llm, options.method, options.protocol, options.seed, _overrides(options)
    )
    path, record = run(cell, options.results, options.fresh)
    if record.status != "ok":
        print(f"adaptrec: {record.status}: {record.error}", file=sys.stderr)
    print(path)
    return 0 if record.status == "ok" else 1


def _bench(options: argparse.Namespace) -> int:
    from benchmark.grid.local import bench
    from benchmark.grid.plan import expand

    cells = expand(
        options.datasets, options.llms, options.methods, options.protocols, options.seeds, _overrides(options)
    )
    return bench(cells, options.results, options.processes, options.fresh, options.jobs)


def _speed(options: argparse.Namespace) -> int:
    from benchmark.speed_record import read_speed, show

    if options.show:
        for name in ("vary", "json", "set"):
            if getattr(options, name):
                raise UserError(f"--show prints what was measured; --{name} does not go with it.")
        print("\n\n".join([show(read_speed(path)) for path in options.show]))
        return 0
    from benchmark.cell import Cell
    from benchmark.speed import Plan, speed

    cell = Cell(options.dataset, options.llm, options.method, options.protocol, 0, tuple(options.set))
    plan = Plan(options.steps, options.warm_up, options.passes)
    record = speed(cell, options.vary, plan, options.json)
    print(show(record))
    return 0 if all(variant.status == "ok" for variant in record.variants) else 1


def _report(options: argparse.Namespace) -> int:
    from benchmark.report.build import build_report

    wanted = {name: getattr(options, f"{name}s") for name in ("dataset", "llm", "method", "protocol")}
    only = {name: values for name, values in wanted.items() if values}
    for path in build_report(options.results, options.out, only or None):
        print(path)
    return 0


def _list(options: argparse.Namespace) -> int:
    for name, summary in _listing(options.what).items():
        print(f"{name:18} {summary}")
    return 0


def _listing(what: str) -> dict[str, str]:
    if what == "methods":
        from methods.registry import entries

        return {
            key: entry.summary + (f" [{entry.distribution} {entry.version}]" if entry.external else "")
            for key, entry in entries().items()
        }
    if what == "llms":
        from benchmark.llm.catalogue import available

        return available()
    from benchmark.data.recipe import available as recipes

    return recipes()


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], str, Callable[[Parser], None]]] = {
    "prepare": (_prepare, "Prepare a dataset, and the hidden states of a language model.", _fill_prepare),
    "run": (_run, "Run one cell and print the path of its record.", _fill_run),
    "bench": (_bench, "Run a grid of cells, each in a fresh process, and print the tables.", _fill_bench),
    "report": (_report, "Write tables and plots from the records.", _fill_report),
    "speed": (_speed, "Time training and evaluation steps on this machine.", _fill_speed),
    "list": (_list, "List methods, language models or datasets.", _fill_list),
}
