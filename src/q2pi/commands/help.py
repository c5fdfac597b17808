"""`--help` of a command: tyro prints a copy of the options' dataclass that is made for display.

The copy has resolved defaults, no options that cannot apply, and help texts without the line breaks of the source.
"""

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Collection
from typing import Annotated, Any

import tyro

from q2pi.config import RunConfig, with_action_masks
from q2pi.envs.spec import resolve
from q2pi.errors import UserError


def help_class(kind: Any, default: Any, hidden: Collection[str]) -> Any:
    """Return a dataclass that shows the options of `kind`.

    Args:
        kind: a dataclass; fields that are dataclasses are copied too.
        default: an instance whose values are shown as defaults; None shows the defaults of `kind`.
        hidden: names of fields to leave out, at any depth.
    """
    owner = typing.get_origin(kind) or kind
    hints, docs = typing.get_type_hints(owner, include_extras=True), field_docs(owner)
    fields: list[tuple[str, Any, Any]] = []
    for entry in dataclasses.fields(owner):
        if entry.name in hidden:
            continue
        value = field_value(entry, default)
        hint = hints[entry.name]
        if dataclasses.is_dataclass(value):
            nested = help_class(type(value), value, hidden)
            fields.append((entry.name, _with_extras(nested, hint), dataclasses.field(default_factory=nested)))
            continue
        hint = _without_none(hint) if value is not None else hint
        text = docs.get(entry.name)
        annotation = hint if text is None else Annotated[hint, tyro.conf.arg(help=text)]
        has_value = value is not dataclasses.MISSING
        fields.append((entry.name, annotation, dataclasses.field(default=value) if has_value else dataclasses.field()))
    namespace = {"__doc__": _joined(owner.__doc__ or "")}
    return dataclasses.make_dataclass(owner.__name__, fields, frozen=True, kw_only=True, namespace=namespace)


def resolved_env(config: RunConfig[Any]) -> RunConfig[Any]:
    """Return a configuration with its environment resolved, or as it is if the environment cannot be made."""
    try:
        return dataclasses.replace(config, env=resolve(with_action_masks(config.env, config.hyper)))
    except UserError:
        return config


def field_value(entry: "dataclasses.Field[Any]", instance: Any) -> Any:
    """Return a field's value in `instance`, or its default if `instance` is None; MISSING if there is none."""
    if instance is not None:
        return getattr(instance, entry.name)
    if entry.default_factory is not dataclasses.MISSING:
        return entry.default_factory()
    return entry.default


def field_docs(owner: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass and of its bases, on one line each."""
    docs: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            match statement, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = _joined(text)
    return docs


def _joined(text: str) -> str:
    return " ".join(text.split())


def _without_none(hint: Any) -> Any:
    """Return `X` for `X | None`: if the default is a value, the help should not list None as a choice."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 else hint


def _with_extras(nested: Any, hint: Any) -> Any:
    """Return `nested` with the markers of an Annotated hint."""
    for extra in getattr(hint, "__metadata__", ()):
        nested = Annotated[nested, extra]
    return nested
