"""Training epochs of this project and of its peers, in turn on one machine.

    python studies peers --recbole-python PYTHON --unisrec CLONE --dataset scientific --llm minilm --json FILE

The peers are RecBole's SASRec, 256 wide, and UniSRec in the inductive setting, from scratch. *As published*
is their own training loop: each batch is padded to the longest history of all (at most 50), and autograd's
anomaly mode is on, since importing RecBole switches it on. *No padding* is the same model and loss with the
anomaly mode off; its rows are in order of their length, and each batch is cut to its own longest history.
Everything runs on the CPU.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from shlex import split

from benchmark.commands.options import Parser, add_data_dir, add_set, names, use_data_dir
from methods.errors import UserError, unknown
from studies import command_line


def main(arguments: Sequence[str]) -> int:
    """Measure and print the table, or print that of a record; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.show:
        from studies.peers.record import read
        from studies.peers.table import show

        print("\n\n".join(show(read(path)) for path in options.show))
        return 0
    if options.recbole_python is None:
        raise UserError("give --recbole-python, a Python that has RecBole, or --show FILE.")
    use_data_dir(options)
    # before torch looks, for this process and those that it starts: the peers run on the CPU
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(options.threads)}
    return _measure(options)


def _measure(options: argparse.Namespace) -> int:
    from studies.peers.measure import OURS, PEERS, Plan, compare
    from studies.peers.record import PeersRecord
    from studies.peers.table import show

    known = [*OURS, *PEERS]
    rows = options.rows or [key for key in known if options.unisrec or "unisrec" not in key]
    for key in rows:
        if key not in known:
            raise unknown("row in --rows:", key, known)
    plan = Plan(
        options.dataset, options.llm, tuple(rows), options.recbole_python, options.unisrec,
        tuple(options.precision), tuple(options.set), options.threads, options.rounds, options.batches,
        options.warm_up, options.epochs,
    )  # fmt: skip

    def save(record: PeersRecord) -> None:
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            record.write(options.json)

    print(show(compare(plan, _command(options, rows), save)))
    return 0


def _command(options: argparse.Namespace, rows: Sequence[str]) -> str:
    """The command as it can be typed elsewhere: without paths of this machine."""
    clone = "--unisrec CLONE " if options.unisrec else ""
    words = split(f"--recbole-python PYTHON {clone}--dataset {options.dataset} --llm {options.llm}")
    words += ["--rows", ",".join(rows), "--precision", ",".join(options.precision)]
    for name in ("threads", "rounds", "batches", "warm_up", "epochs"):
        words += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    return command_line("peers", [*words, *(["--set", *options.set] if options.set else [])])


def _parser() -> Parser:
    parser = Parser("python studies peers", description="Time training beside RecBole and UniSRec.")
    parser.add_argument("--recbole-python", type=Path, metavar="PYTHON", help="a Python that has RecBole")
    parser.add_argument("--unisrec", type=Path, metavar="CLONE", help="of github.com/RUCAIBox/UniSRec")
    parser.add_argument("--dataset", default="scientific", help="a recipe's name or a folder")
    parser.add_argument("--llm", default="minilm", help="whose states SSNA and UniSRec read")
    parser.add_argument(
        "--rows", type=names, metavar="NAMES",
        help="ssna, id, sasrec, sasrec-unpadded, unisrec, unisrec-unpadded, by commas (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", type=names, default=["auto"], metavar="NAMES",
        help="of our rows, by commas: auto, bf16 or no (fp32); each gives a row of its own",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of every row")
    parser.add_argument("--rounds", type=int, default=3, help="how often every row is measured, in turn")
    parser.add_argument("--batches", type=int, default=4, help="batches of a padded peer to time in a round")
    parser.add_argument("--warm-up", type=int, default=1, help="batches of a peer before them")
    parser.add_argument("--epochs", type=int, default=2, help="whole epochs of ours to time in a round")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the record here after each measurement"
    )
    parser.add_argument("--show", type=Path, nargs="+", metavar="FILE", help="print the table of records")
    add_set(parser)
    add_data_dir(parser)
    return parser
