"""`adaptrec list`."""

from __future__ import annotations

import argparse
import textwrap

from benchmark.commands.options import Parser

WIDTH = 90
"""Characters of a line of categories."""
SUMMARY = "List methods, language models or datasets."


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("what", choices=["methods", "llms", "datasets"], metavar="methods|llms|datasets")


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    groups = _listing(options.what)
    width = max(18, *(len(name) for lines in groups.values() for name in lines))
    for number, (heading, lines) in enumerate(groups.items()):
        if heading:
            print(f"{chr(10) if number else ''}{heading}:")
        for name, summary in lines.items():
            first, *more = summary.splitlines() or [""]
            print(f"{name:{width}} {first}")
            for line in more:
                print(f"{'':{width}} {line}")
    return 0


def _listing(what: str) -> dict[str, dict[str, str]]:
    """Heading of a group -> name -> summary."""
    if what == "methods":
        return _methods()
    if what == "llms":
        return {"": _llms()}
    return {"": _datasets()}


def _llms() -> dict[str, str]:
    """Short names; of those without a commit in llms.toml, whether the user has pinned one."""
    from benchmark.llm.catalogue import available, short_names, unpinned
    from benchmark.llm.pins import read_pins

    lines, pins = available(), read_pins()
    for name in unpinned():
        state = "at first use its commit is kept" if "commit" in short_names()[name] else "unpinned"
        if name in pins:
            state = f"pinned to {pins[name].revision[:12]}"
        lines[name] += f" [{state}]"
    return lines


READ = {
    ("states",): "Methods that read hidden states of the frozen language model, computed once",
    ("states", "ids"): "Methods that read hidden states and learn item vectors",
    ("tokens",): "Methods that read tokens and train parts of the language model",
    ("ids",): "Methods that learn item vectors",
}
"""What methods read -> the heading of their group, in the order of the list."""
CONTROLS = "Controls, which do not train"
OTHERS = "Others"


def _methods() -> dict[str, dict[str, str]]:
    """The methods by what they read, then the controls."""
    from methods.registry import entries

    groups: dict[str, dict[str, str]] = {heading: {} for heading in (*READ.values(), OTHERS, CONTROLS)}
    for name, entry in entries().items():
        heading = READ.get(entry.reads, OTHERS) if entry.trains else CONTROLS
        source = f" [{entry.distribution} {entry.version}]" if entry.external else ""
        mark = "" if entry.by_default else " (not by default)"
        groups[heading][name] = entry.summary + source + mark
    return {heading: lines for heading, lines in groups.items() if lines}


def _datasets() -> dict[str, str]:
    """A line a dataset; those of a family that are not here share one, with their categories below it."""
    from benchmark.data.catalogue import available, family
    from benchmark.files import cache_folder

    lines: dict[str, str] = {}
    categories: dict[str, list[str]] = {}
    for own, dataset in available(cache_folder()).items():
        name, summary = own, dataset.summary
        if dataset.category and dataset.state != "here":
            name, summary = family(own, dataset.category), summary.replace(dataset.category, "<category>")
            categories.setdefault(name, []).append(dataset.category)
        lines[name] = f"{dataset.edition:13} {dataset.state:9} {summary}".rstrip()
    for name, several in categories.items():
        below = textwrap.wrap(f"<category>: {', '.join(several)}", WIDTH, subsequent_indent="  ")
        lines[name] = "\n".join([lines[name], *below])
    return lines
