"""The options that the commands have in common, and their folders.

Owns their names and defaults. It must never know what is measured.
"""

import argparse
from pathlib import Path

from benchmarks.models import MODELS
from benchmarks.processes import ROOT


def parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """Options for models, times and folders; a command adds its own."""
    common = argparse.ArgumentParser(prog=prog, description=description)
    add = common.add_argument
    add("--only", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="MODEL", help=", ".join(MODELS))
    add("--seconds", type=float, default=5.0, help="of each measurement")
    add("--rounds", type=int, default=3, help="of all measurements")
    add("--models", type=Path, metavar="FOLDER", help="keep the models here for the next run")
    add("--output", type=Path, default=ROOT / "benchmarks" / "results", metavar="FOLDER", help="for the results")
    return common


def parse(options_parser: argparse.ArgumentParser, given: list[str] | None = None) -> argparse.Namespace:
    """The options, with absolute folders: the processes run in another one."""
    options = options_parser.parse_args(given)
    options.output, options.models = options.output.resolve(), options.models and options.models.resolve()
    return options
