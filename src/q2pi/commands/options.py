"""Reading a verb's arguments: dataclasses through tyro, mistakes in one line."""

import contextlib
import io
import re
from typing import Any, TypeVar

import tyro

from q2pi.errors import UserError

Options = TypeVar("Options")


def parse(kind: type[Options], verb: str, description: str, arguments: list[str], default: Any = None) -> Options:
    """Return the options of a verb; `--help` prints them and exits.

    Args:
        kind: a dataclass, whose fields' docstrings are the help texts.
        verb: for the usage line.
        description: one or two sentences above the options.
        arguments: what follows the verb.
        default: an instance of `kind` whose values are the defaults.

    Raises:
        UserError: an unknown flag, a missing or an unreadable value.
    """
    extra = {} if default is None else {"default": default}
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            options: Options = tyro.cli(
                kind,
                prog=f"q2pi {verb}",
                description=description,
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
                **extra,
            )
            return options
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_one_line(message.getvalue(), verb)) from None


def _one_line(box: str, verb: str) -> str:
    """Return the first paragraph of tyro's boxed message, with its first suggestion."""
    lines = [line.strip(" │╭╮╰╯") for line in box.splitlines()[1:]]
    rules = [index for index, line in enumerate(lines) if set(line) == {"─"}]
    first = " ".join(lines[: rules[0]] if rules else lines).strip()
    close = re.search(r"(--[\w-]+)", " ".join(lines[rules[0] :])) if rules and "Perhaps" in box else None
    hint = f"; did you mean {close.group(1)}?" if close else ""
    return f"{first[:1].lower()}{first[1:]}{hint} (q2pi {verb} --help lists the options)"


def peek(arguments: list[str], name: str) -> str | None:
    """Return the value of one flag before the rest is parsed; the last one wins, as in parsing."""
    value = None
    for index, argument in enumerate(arguments):
        key, equals, inline = argument.partition("=")
        if key.replace("_", "-") == name:
            value = inline if equals else next(iter(arguments[index + 1 :]), None)
    return value
