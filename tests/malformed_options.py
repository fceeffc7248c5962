"""Malformed options: for each command a good command line, in which one option has a value that its grammar
does not allow. The options are those that the parser has, so that none is forgotten."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import get_type_hints

from malformed import PLACE, Files, Generate, Malformed, interactions_table, items_table, written
from malformed_own import Own

from benchmark.cli import parsers
from benchmark.config import Settings

DATA: Files = {
    "data/interactions.tsv": written(interactions_table()),
    "data/items.tsv": written(items_table()),
    "file": b"x",
}
FOLDER = f"{PLACE}/data"
MISSING = (f"{PLACE}/missing", f"{PLACE}/file/below", "\0", f"{PLACE}/{'x' * 300}")
NOT_FILES = (*MISSING, PLACE)
WHOLE = ("x", "1.5", "", "1e3", "0x10", "--", "1 2", "nan", "inf", "9" * 5000)
"""Nothing of which is a whole number."""
NAMES = ("", ",", " , ,")
AT_LEAST: Mapping[str, int] = {
    "k": 1, "seconds": 1, "steps": 1, "warm_up": 0, "passes": 1, "epochs": 1, "trials": 1, "processes": 1,
    "jobs": 1, "cpus": 1, "seed": 0,
}  # fmt: skip
"""Option that takes a whole number -> the least one."""
SPECIAL: Mapping[str, tuple[str, ...]] = {
    "columns": ("a", "=b", "user_id=", "user_id=a,user_id=b", "person=uid", "user_id=x,item_id=x", ","),
    "separator": ("", "ab", "a", '"', "\u00e9", "\n"),
    "recipe": ("no-such", "", "../x"),
    "set": ("epochs", "=3", "no_such=1", "width=8=9", "", "=", "width"),
    "vary": ("width", "=1,2", "width=", "width=,", "no_such=1,2", "width=8,x"),
    "budget": ("x", "0", "-5", "10x", "", "1e3", "5 m", "nan"),
    "rate": ("x", "0", "-1", "", "nan", "1,5"),
    "metrics": (*NAMES, "recall", "recall@", "recall@0", "recall@x", "no@10", "recall@-1"),
    "seeds": (*NAMES, "x", "1.5", "1,x", "-1", str(2**64)),
    "track": (*NAMES, "no-such"),
    "methods": (*NAMES, "no-such", "id,no-such"),
    "protocols": (*NAMES, "no-such", "paper,no-such"),
    "datasets": (*NAMES, f"{PLACE}/missing", "no such"),
    "llms": NAMES,
    "beacon": ("", "x", "0", "zz" * 16, "12"),
    "history": ("", ",", "?", f"{PLACE}/missing.jsonl", f"{PLACE}/file"),
    "executor": ("no-such", ""),
    "method": ("no-such", "", "ID", "all"),
    "dataset": ("no-such", "", f"{PLACE}/missing", f"{PLACE}/file", "\0", "x" * 300),
    "spec": ("{", "[]", "3"),
    "a": ("no/such", "", f"{PLACE}/missing", "paper:no/such/row"),
    "b": ("no/such", "", f"{PLACE}/missing", "paper:"),
    "protocol": ("no-such", "", "Paper"),
    "json": (PLACE,),
    "out": (),
    "what": ("no-such", "", "method"),
    "source": ("no-such", "our"),
}
FREE = {"llm", "ray_address", "report", "results", "with_embeddings", "data", "llms", "out"}
"""Options whose values are names or folders that need not exist, or that another test covers."""


def good_lines(own: Own) -> dict[str, tuple[str, ...]]:
    """Command -> words of a command line that would do well; `pin` asks a hub, and is left out."""
    run = ("--dataset", FOLDER, "--method", "id", "--epochs", "1", "--results", f"{PLACE}/results")
    return {
        "prepare": ("--dataset", FOLDER),
        "audit": (FOLDER,),
        "run": run,
        "bench": ("--datasets", FOLDER, "--methods", "id", "--llms", "random-tiny", "--epochs", "1",
                  "--protocols", "fair", "--results", f"{PLACE}/results", "--dry-run"),
        "report": ("--results", str(own.record.parents[3]), "--out", f"{PLACE}/out"),
        "results": ("--results", str(own.record.parents[3])),
        "advise": ("--results", str(own.record.parents[3])),
        "explain": (str(own.record), str(own.record), "--results", str(own.record.parents[3])),
        "bundle": (str(own.record), "-o", f"{PLACE}/out.adaptrec.zip"),
        "verify": (str(own.bundle),),
        "export": (str(own.record), "-o", f"{PLACE}/out"),
        "recommend": (str(own.model), "--history", "a,b", "--k", "3"),
        "embed": (str(own.model), "--items", f"{PLACE}/new.tsv", "-o", f"{PLACE}/out.npz"),
        "challenge": (str(own.bundle), "--beacon", "0" * 64, "--out", f"{PLACE}/out"),
        "speed": ("--dataset", FOLDER, "--method", "id", "--steps", "1", "--warm-up", "0", "--passes", "1"),
        "list": ("methods",),
        "add": (str(own.record), "--results", f"{PLACE}/results"),
    }  # fmt: skip


def values(action: argparse.Action) -> tuple[str, ...]:
    """Words that an option must not have as its value."""
    name = action.dest
    if action.choices is not None:
        choices = [str(choice) for choice in action.choices]
        wrong = ("no-such", "", choices[0].swapcase(), choices[0][:-1], f"{choices[0]},{choices[-1]}")
        return tuple(value for value in wrong if value not in choices)
    if action.type is int:
        return (*WHOLE, str(AT_LEAST[name] - 1), str(AT_LEAST[name] - 100))
    if name in SPECIAL:
        return SPECIAL[name]
    return NOT_FILES if action.type is Path and name != "data_dir" else (*MISSING, f"{PLACE}/file")


def with_value(words: tuple[str, ...], action: argparse.Action, value: str | None) -> tuple[str, ...]:
    """The command line with another value of an option, or without any for None."""
    own = [] if value is None else [value]
    if not action.option_strings:
        place = {"a": 0, "b": 1}.get(action.dest, 0)
        return (*words[:place], *own, *words[place + 1 :])
    name = max(action.option_strings, key=len)
    given = next((option for option in action.option_strings if option in words), None)
    if given is not None:
        place = words.index(given)
        words = (*words[:place], *words[place + 2 :])
    if own and own[0].startswith("-"):
        return (*words, f"{name}={own[0]}")
    return (*words, name, *own)


def options(own: Own, command: str) -> Generate:
    """Command lines of one command."""
    words = good_lines(own)[command]
    actions = [action for action in parsers()[1][command]._actions if action.dest != "help"]
    valued = [action for action in actions if action.nargs != 0 and action.dest not in FREE]

    def generate(random: Random) -> Malformed:
        action = random.choice(valued)
        name = max(action.option_strings, key=len) if action.option_strings else action.dest
        mutation = random.choice(
            ["a value that is not allowed"] * 6 + ["no value", "misspelt", "an argument more"]
        )
        if mutation == "a value that is not allowed":
            value = random.choice(values(action))
            changed = with_value(words, action, value)
            mutation = f"{value[:30]!a}"
        elif mutation == "no value":
            changed = with_value(words, action, None)
        elif mutation == "misspelt":
            flag = random.choice(
                [name for action in actions for name in action.option_strings if "--" in name] or ["--help"]
            )
            changed = (*words, f"{flag}{random.choice('xs-')}", "1")
            name = flag
        else:
            changed = (*words, "--", "more", "and-more")
        files = {**DATA, "new.tsv": b"item_id\ttext\nn1\tthing\n"}
        return Malformed("options", f"{command} {name}: {mutation}", (command, *changed), files)

    return generate


def settings(random: Random) -> Malformed:
    """`--set` with a value that its setting cannot have."""
    hints = get_type_hints(Settings, include_extras=True)
    name = random.choice(sorted(hints))
    value = random.choice(["", "maybe", "nan", "inf", "-1", "1e999", "[]", "None", "\x00", "-0.5", "\u0663x"])
    command = ("run", "--dataset", FOLDER, "--method", "id", "--results", f"{PLACE}/results", "--set")
    return Malformed("settings", f"{name}={value!a}", (*command, f"{name}={value}"), DATA)
