"""``--set KEY=VALUE``: texts become arguments of a builder function."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable, Sequence

from varscope.cli.failures import CommandError


def bind(function: Callable[..., object], settings: Sequence[str]) -> inspect.BoundArguments:
    """The arguments for a call of ``function`` with these ``key=value`` settings."""
    texts = split_settings(settings)
    signature = signature_of(function)
    name = getattr(function, "__name__", str(function))
    named, takes_any = named_parameters(signature)
    extra = [key for key in texts if key not in named]
    if extra and not takes_any:
        raise CommandError(unknown_parameter(name, extra[0], named))
    bound = signature.bind_partial(**{key: parse_value(texts[key], None) for key in extra})
    for key, parameter in named.items():
        if key in texts:
            bound.arguments[key] = parse_setting(key, texts[key], parameter)
        elif parameter.default is parameter.empty:
            raise CommandError(f"{name}() needs a value for {key!r}; write --set {key}=...")
    # With every default filled in, also positional-only parameters can be left out in the middle.
    bound.apply_defaults()
    return bound


def split_settings(settings: Sequence[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise CommandError(f"not a setting: {setting!r}; write it as key=value")
        if key in texts:
            raise CommandError(
                f"{key!r} is set twice: {key}={texts[key]} and {setting}; write one of them"
            )
        texts[key] = text
    return texts


def signature_of(function: Callable[..., object]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise CommandError(
            f"the parameters of {function!r} are not known: {error}; wrap it in a plain function"
        ) from None


def named_parameters(signature: inspect.Signature) -> tuple[dict[str, inspect.Parameter], bool]:
    """The parameters that have a name of their own, and whether any other name is taken too."""
    parameters = signature.parameters.values()
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = {p.name: p for p in parameters if p.kind not in several}
    return named, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def unknown_parameter(name: str, key: str, named: dict[str, inspect.Parameter]) -> str:
    if not named:
        return f"{name}() has no parameter {key!r}: it takes none; leave --set out"
    shown = [
        key if parameter.default is parameter.empty else f"{key}={parameter.default!r}"
        for key, parameter in named.items()
    ]
    near = difflib.get_close_matches(key, named, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return (
        f"{name}() has no parameter {key!r}{hint}; write one of its parameters: {', '.join(shown)}"
    )


def parse_setting(key: str, text: str, parameter: inspect.Parameter) -> object:
    """The value of one setting, which has to fit a parameter of a plain type."""
    kind = plain_type(parameter)
    value = parse_value(text, kind)
    if kind is float and type(value) is int:
        return float(value)
    if kind is None or type(value) is kind:
        return value
    no_default = parameter.default is parameter.empty
    default = "" if no_default else f" (the default of {key!r} is {parameter.default!r})"
    raise CommandError(f"{key}={text}: not of type {kind.__name__}{default}; write a value that is")


def plain_type(parameter: inspect.Parameter) -> type | None:
    """bool, int, float or str where the parameter is plainly that, by annotation or default.

    Any other annotation (``int | None``) admits more than the default shows, so it gives None.
    """
    plain: dict[object, type] = {kind: kind for kind in (bool, int, float, str)}
    plain |= {kind.__name__: kind for kind in (bool, int, float, str)}
    if parameter.annotation is not parameter.empty:
        annotation = parameter.annotation
        return plain.get(annotation) if isinstance(annotation, type | str) else None
    return plain.get(type(parameter.default))


def parse_value(text: str, kind: type | None) -> object:
    """A Python literal where ``text`` is one, else the text; for ``str`` the text as it stands."""
    if kind is not str and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text
    return text if kind is str and type(value) is not str else value


def size_of(text: str) -> int | str:
    """A size as `varscope.save` takes it, of which a bare number is one of bytes."""
    # Longer numbers are nobody's, and int() refuses those of some thousand digits.
    return int(text) if text.isdecimal() and len(text) < 20 else text
