"""Arguments of a command: dataclasses read by tyro, with one-line errors.

A boolean option `--double` also takes a value (`--double false`, `--double=no`) and has a negation (`--no-double`).
"""

import contextlib
import dataclasses
import io
import re
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

import tyro

from q2pi.commands.help import field_value, help_class
from q2pi.errors import UserError

Options = TypeVar("Options")
_UNREADABLE = re.compile(r"(?i)error parsing (--\S+): no type matching (.+) could be instantiated from \[(.*?)\].*")
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse(
    kind: type[Options],
    command: str,
    description: str,
    arguments: list[str],
    default: Any = None,
    *,
    help_default: Callable[[], Any] | None = None,
    hidden: Collection[str] = (),
    refused: Mapping[str, str] | None = None,
) -> Options:
    """Return the options of a command; `--help` prints them and exits.

    Args:
        kind: a dataclass; the docstrings of its fields are the help texts.
        command: for the usage line.
        description: one or two sentences above the options.
        arguments: the words after the command.
        default: an instance of `kind` whose values are the defaults.
        help_default: returns an instance of `kind` whose values `--help` shows as defaults; None shows `default`.
        hidden: names of fields that `--help` does not list; their flags are still parsed, so that a check can name
            the reason.
        refused: name of a field that has no flag -> what to do instead; `--help` does not list the field.

    Raises:
        UserError: an unknown or refused flag, a missing or an unreadable value.
    """
    refused = refused or {}
    for name, reason in refused.items():
        if any(_key(argument) == _flag(name) for argument in arguments):
            raise UserError(f"{_flag(name)}: {reason} (q2pi {command} --help lists the options)")
    if {"-h", "--help"} & set(arguments):
        shown = default if help_default is None else help_default()
        _tyro(help_class(kind, shown, {*hidden, *refused}), command, description, ["--help"], None)
    arguments = _with_booleans(arguments, dict(_boolean_fields(kind, default)))
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            options: Options = _tyro(kind, command, description, arguments, default)
            return options
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_one_line(message.getvalue(), command)) from None


def peek(arguments: list[str], name: str) -> str | None:
    """Return the value of one flag before all arguments are parsed; the last one wins, as in parsing."""
    value = None
    for index, argument in enumerate(arguments):
        _, equals, inline = argument.partition("=")
        if _key(argument) == name:
            value = inline if equals else next(iter(arguments[index + 1 :]), None)
    return value


def _tyro(kind: Any, command: str, description: str, arguments: list[str], default: Any) -> Any:
    return tyro.cli(
        kind,
        prog=f"q2pi {command}",
        description=description,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
        **({} if default is None else {"default": default}),
    )


def _one_line(box: str, command: str) -> str:
    """Return the first paragraph of tyro's boxed message, with its first suggestion."""
    lines = [line.strip(" │╭╮╰╯") for line in box.splitlines()[1:]]
    if lines and _is_rule(lines[0]):  # without Unicode, tyro draws no box and underlines the title
        del lines[0]
    rules = [index for index, line in enumerate(lines) if _is_rule(line)]
    first = " ".join(lines[: rules[0]] if rules else lines).strip()
    suggested = re.search(r"(--\w[\w-]*)", " ".join(lines[rules[0] :])) if rules and "Perhaps" in box else None
    hint = f"; did you mean {suggested.group(1)}?" if suggested else ""
    first = _UNREADABLE.sub(_expected, first)
    return f"{first[:1].lower()}{first[1:]}{hint} (q2pi {command} --help lists the options)"


def _expected(unreadable: re.Match[str]) -> str:
    """Return in short what tyro says about a value of several types: the flag, the value, what it should be."""
    flag, types, words = unreadable.groups()
    value = " ".join(re.findall(r"'([^']*)'", words)) or "without a value"
    return f"{flag} {value}: expected {re.sub('[{}]', '', types).replace('|', ' or ')}"


def _is_rule(line: str) -> bool:
    return set(line) in ({"─"}, {"-"})


def _boolean_fields(kind: Any, default: Any) -> Iterator[tuple[str, bool]]:
    """Yield (flag, whether None is allowed) of each boolean field of a dataclass, nested dataclasses included."""
    owner = typing.get_origin(kind) or kind
    hints = typing.get_type_hints(owner)
    for entry in dataclasses.fields(owner):
        value = field_value(entry, default)
        if dataclasses.is_dataclass(value):
            yield from _boolean_fields(type(value), value)
        elif hints[entry.name] is bool:
            yield _flag(entry.name), False
        elif set(typing.get_args(hints[entry.name])) == {bool, type(None)}:
            yield _flag(entry.name), True


def _with_booleans(arguments: list[str], optional: Mapping[str, bool]) -> list[str]:
    """Return arguments in which each boolean has the form that tyro reads.

    tyro reads `--double` and `--no-double` if the field cannot be None, else `--grayscale True` or `--grayscale False`.

    Args:
        arguments: the words of the command line.
        optional: flag of each boolean field -> whether None is allowed.
    """
    result: list[str] = []
    words = iter(enumerate(arguments))
    for index, argument in words:
        key, (_, equals, text) = _key(argument), argument.partition("=")
        flag = key if key in optional else f"--{key.removeprefix('--no-')}" if key.startswith("--no-") else ""
        if flag not in optional or (flag != key and equals):
            result.append(argument)
            continue
        value = flag == key
        following = arguments[index + 1].lower() if index + 1 < len(arguments) else ""
        if optional[flag] and flag == key and "none" in (text.lower(), following):
            result.append(argument)  # tyro reads None
            continue
        if equals and text.lower() not in _BOOLEANS:
            raise UserError(f"{argument}: the value must be true or false")
        if flag == key and (equals or following in _BOOLEANS):
            value = _BOOLEANS[text.lower() if equals else following]
            if not equals:
                next(words)
        result += [flag, str(value)] if optional[flag] else [flag if value else f"--no-{flag.removeprefix('--')}"]
    return result


def _key(argument: str) -> str:
    """Return the flag of an argument, in the form that `--help` lists."""
    return argument.partition("=")[0].replace("_", "-")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
