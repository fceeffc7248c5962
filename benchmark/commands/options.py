"""The parser of the commands, the options that several commands share, and how their values are parsed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from benchmark.config import NO_PROTOCOL, PROTOCOLS
from benchmark.data.formats import DATA_VARIABLE
from benchmark.data.recipe import FolderOptions, separator
from benchmark.results.schema import METRICS
from methods.errors import UserError, unknown

if TYPE_CHECKING:
    from benchmark.run.spec import RunSpec

MOST_SECONDS = 24 * 60 * 60
"""The longest time that the check of a bundle may be given."""


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Prints defaults, but for those that say nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default not in (None, False, []) else action.help


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line with the nearest match."""

    def __init__(self, prog: str, description: str, **kwargs: Any) -> None:
        super().__init__(prog, description=description, allow_abbrev=False, formatter_class=_Help, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise UserError(f"{self.prog}: {message}. `{self.prog} --help` lists the options.")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        # no path may hold it, and each system call would complain in its own way
        if "\0" in arg_string and not isinstance(action, argparse._SubParsersAction):
            name = action.option_strings[0] if action.option_strings else action.dest
            raise UserError(f"{name}: {arg_string!r} holds a NUL character; give it without.")
        return super()._get_value(action, arg_string)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind = str(action.metavar or action.dest).lower()
            if "|" in kind:  # the choices themselves: no name of what they are
                kind = f"value of {action.option_strings[0]}:" if action.option_strings else "argument"
            raise unknown(kind, value, action.choices)

    @property
    def options(self) -> list[str]:
        """Every long option of this parser."""
        return [name for action in self._actions for name in action.option_strings if name.startswith("--")]


def add_common(parser: Parser, results: Path | None = Path("results")) -> None:
    """The options of every command that makes records; `results` is the default of --results."""
    add_set(parser)
    add_data_dir(parser)
    parser.add_argument("--epochs", type=int, help="epochs at most; the same as --set epochs=N")
    add_results(parser, results)


def add_keep_model(parser: Parser) -> None:
    """The option --keep-model."""
    parser.add_argument(
        "--keep-model", action="store_true",
        help="keep the weights of the chosen epoch and the embeddings of all items beside the record, which "
        "`adaptrec export` makes a folder of; a finished run without them is run again",
    )  # fmt: skip


def add_track(parser: Parser) -> None:
    """The option --track."""
    parser.add_argument(
        "--track", type=names, default=(), metavar="NAMES",
        help="report each run to these trackers, by commas: tensorboard, wandb, mlflow (docs/tracking.md)",
    )  # fmt: skip


def add_results(parser: Parser, default: Path | None = Path("results")) -> None:
    """The option --results."""
    by_datasets = "" if default else "; results, or results/tiny for planted datasets, when left out"
    parser.add_argument("--results", type=Path, default=default, help=f"folder of the records{by_datasets}")


def add_seconds(
    parser: Parser, does: str = "give up checking the bundle after so long", default: int = 600
) -> None:
    """The option --seconds of what reads a bundle; `does` begins its help text."""
    parser.add_argument(
        "--seconds", type=check_seconds, default=default, metavar="N",
        help=f"{does}, 1 to {MOST_SECONDS} (default: %(default)s)",
    )  # fmt: skip


def check_seconds(text: str) -> int:
    """Whole seconds that the check of a bundle may take."""
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= MOST_SECONDS):
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 1 to {MOST_SECONDS}")
    return int(text)


def add_source(parser: Parser, default: str | None = "ours", more: str = "") -> None:
    """The option --source, of a report; `more` ends its help text."""
    parser.add_argument(
        "--source", choices=["ours", "paper", "both"], default=default, metavar="ours|paper|both",
        help="of the report: ours: the records; paper: the published figures alone, no records needed; both: "
        f"side by side{more}",
    )  # fmt: skip


def add_filters(parser: Parser) -> None:
    """The options that select some of the records."""
    for name in ("datasets", "llms", "methods", "protocols"):
        parser.add_argument(f"--{name}", type=names, help="only these, by commas")


def add_dataset(parser: Parser, required: bool = True) -> None:
    """The option --dataset, and those that describe its folder."""
    parser.add_argument("--dataset", type=name, required=required, help="a recipe's name or a folder")
    add_reading(parser)


def add_run(parser: Parser) -> None:
    """The options that describe one run, but for its method; `spec` collects them."""
    add_dataset(parser, required=False)
    parser.add_argument(
        "--llm", type=name, default="minilm", help="a short name, hub id, folder or address of a server"
    )
    parser.add_argument(
        "--protocol", default="paper", choices=[*PROTOCOLS, NO_PROTOCOL], metavar="PROTOCOL", help=protocols()
    )


def spec(options: argparse.Namespace) -> RunSpec:
    """The run that the options describe. Raises `UserError` where the dataset or the method is missing."""
    from benchmark.run.spec import RunSpec

    for name in ("dataset", "method"):
        if not getattr(options, name):
            raise UserError(
                f"adaptrec {options.command}: give --dataset and --method. "
                f"`adaptrec {options.command} --help` lists the options."
            )
    return RunSpec(
        options.dataset, options.llm, options.method, options.protocol, getattr(options, "seed", 0),
        overrides(options), reading(options),
    )  # fmt: skip


def add_data_dir(parser: Parser) -> None:
    """The option --data-dir; `use_data_dir` applies it."""
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR",
        help="folder of data files that were put there by hand, itself or DIR/<dataset>; as ADAPTREC_DATA",
    )  # fmt: skip


def use_data_dir(options: argparse.Namespace) -> None:
    """Let this process and those that it starts look for data files in what --data-dir names."""
    folder: Path | None = getattr(options, "data_dir", None)
    if folder is None:
        return
    if not folder.is_dir():
        raise UserError(f"--data-dir: there is no folder {folder}; give one that holds data files.")
    os.environ[DATA_VARIABLE] = str(folder.resolve())


def add_reading(parser: Parser) -> None:
    """The options that describe a dataset's folder; `reading` collects them."""
    parser.add_argument(
        "--recipe", type=name, metavar="NAME", help="take the options of this recipe for the folder"
    )
    add_columns(parser, "the folder's files", "user_id=uid,item_id=asin,timestamp=ts")


def add_columns(parser: Parser, files: str, example: str) -> None:
    """The options --columns and --separator, which describe `files`; `reading` collects them."""
    parser.add_argument(
        "--columns", type=_columns, metavar="NAME=COLUMN,...",
        help=f"columns of {files} that have other names, such as {example}",
    )  # fmt: skip
    parser.add_argument(
        "--separator", type=_separator, metavar="CHARACTER",
        help=f"between the fields of a line of {files}, such as ';'",
    )  # fmt: skip


def reading(options: argparse.Namespace) -> FolderOptions:
    """The values of --recipe, where the command has it, --columns and --separator."""
    recipe = getattr(options, "recipe", None) or ""
    return FolderOptions(recipe, options.columns or (), options.separator or "")


def _columns(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [pair.partition("=") for pair in names(text)]
    columns = {name.strip(): column for name, _, column in pairs}
    if len(columns) < len(pairs) or not all(columns) or not all(columns.values()):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=COLUMN,... with each name once")
    return tuple(columns.items())


def add_level(parser: Parser, levels: Sequence[str], of: str) -> None:
    """The options --level and --data of a check, and those that describe the data; `level_of` reads them.

    `of` is what must reach the level.
    """
    parser.add_argument(
        "--level", type=_level, choices=levels, metavar="|".join(levels),
        help=f"the level that {of} must reach, see docs/verify.md (default: L2, with --data L3)",
    )  # fmt: skip
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="DATASET",
        help="for L3 and L4: the data of the runs, each a recipe's name or a folder",
    )  # fmt: skip
    add_reading(parser)
    add_data_dir(parser)


def _level(text: str) -> str:
    if text == "L5":
        raise argparse.ArgumentTypeError(
            "L5 is no check of a bundle alone: `adaptrec challenge BUNDLE --beacon HEX` makes it"
        )
    return text


def level_of(options: argparse.Namespace) -> str:
    """The level that is asked for. Raises `UserError` where it does not fit to the data that are given."""
    level: str = options.level or ("L3" if options.data else "L2")
    if (level in ("L3", "L4")) != bool(options.data):
        raise UserError(
            "levels L3 and L4 need the data of the runs, and L1 and L2 do not; give --data DATASET with "
            "--level L3 or L4, or neither."
        )
    if not options.data:
        no_reading(options, "--data")
    return level


def no_reading(options: argparse.Namespace, needs: str) -> None:
    """Raise `UserError` where an option describes a folder and none is given; `needs` is what gives it."""
    for option in ("recipe", "columns", "separator"):
        if getattr(options, option):
            raise UserError(f"--{option} describes the folder of {needs}, which is not given; leave it out.")


def name(text: str) -> str:
    """A text that is not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("give a name")
    return text


def _separator(text: str) -> str:
    try:
        return separator("\t" if text == "\\t" else text)  # as a shell hands it over
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def output_file(text: str) -> Path:
    """The path of a file to write. A folder is refused before anything is measured."""
    if not text or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' is a folder; give the name of a file")
    return Path(text)


def add_metrics(parser: Parser) -> None:
    """The option --metrics; `metrics` parses it."""
    parser.add_argument(
        "--metrics", type=names, metavar="NAME@K,...",
        help="what tables show of each user's test rank: recall@k, ndcg@k, mrr, mrr@k for any k; and of the "
        "20 best items of all users: coverage@k, gini@k, novelty@k, popularity@k, but not in `explain`; by "
        f"commas (default: {','.join(METRICS)})",
    )  # fmt: skip


def metrics(options: argparse.Namespace, lists: bool = True) -> tuple[str, ...]:
    """The measures to show, each once; of ranks alone without `lists`. Raises `UserError` for other names."""
    from benchmark.results.metrics import chosen_measures

    return chosen_measures(options.metrics or (), lists)


def add_set(parser: Parser) -> None:
    """The option --set."""
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="settings and hyper-parameters on top of the protocol; docs/settings.md lists them",
    )  # fmt: skip


def protocols() -> str:
    """All protocols and what they set, for a help text."""
    named = "; ".join(f"{name}: {_pairs(values)}" for name, values in PROTOCOLS.items())
    return f"{named}; {NO_PROTOCOL}: of controls, which do not train and take it whatever is given"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def names(text: str) -> list[str]:
    """Names given by commas, each once."""
    given = [name.strip() for name in text.split(",") if name.strip()]
    if not given:
        raise argparse.ArgumentTypeError("give at least one name")
    return list(dict.fromkeys(given))


def setting(text: str) -> tuple[str, list[str]]:
    """A `KEY=VALUE,VALUE,...` as its key and values."""
    key, sign, values = text.partition("=")
    if not sign or not key:
        raise argparse.ArgumentTypeError(f"'{text}' is not KEY=VALUE,VALUE,...")
    return key, names(values)


def numbers(text: str) -> list[int]:
    """Whole numbers given by commas."""
    try:
        return [int(name) for name in names(text)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of whole numbers") from error


def overrides(options: argparse.Namespace) -> tuple[str, ...]:
    """The values of --set and --epochs, as `key=value` pairs."""
    pairs = list(options.set)
    if options.command != "speed" and options.epochs is not None:  # there, epochs to time
        pairs.append(f"epochs={options.epochs}")
    return tuple(pairs)
