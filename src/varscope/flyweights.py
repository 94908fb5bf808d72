"""Small frozen objects that compare by their settings, or of which there is one for the same."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Hashable
from dataclasses import Field, fields
from typing import Any, ClassVar


class Settings:
    """What frozen dataclasses share: they compare and show themselves by their fields.

    `dataclass` would write these methods anew for each of them, in source text that is compiled
    whenever the library is imported, and that took a third of the time of importing it.  What no
    user gets to see is not frozen for the same reason; nobody changes it all the same.
    """

    __slots__ = ()  # those of a class are its own affair
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def _settings(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in fields(self) if field.compare)

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return self._settings() == other._settings()

    def __hash__(self) -> int:
        return hash((type(self), self._settings()))

    def __repr__(self) -> str:
        shown = [
            f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.repr
        ]
        return f"{type(self).__qualname__}({', '.join(shown)})"


PLAIN = frozenset({type(None), bool, int, float, complex, str})


class Flyweight(type):
    """The metaclass of frozen dataclasses that give back what they made for the same settings.

    Hooks of variables are compared by identity, as everything that users may write.  A model that
    writes `l2_regularizer(1e-4)` in each of a million calls is to be as fast, and to keep as few
    kinds of variables, as one that writes it once.  Classes that users derive are left alone.
    """

    _made: ClassVar[weakref.WeakValueDictionary[Any, Any]] = weakref.WeakValueDictionary()

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        key = key_of(cls, args, kwargs)
        found = None if key is None else Flyweight._made.get(key)
        if found is not None:
            return found
        made = super().__call__(*args, **kwargs)
        # The same settings may be written in several ways: by keyword, 1 for 1.0, or as a number
        # of NumPy, of which they are made plain.
        settings = key_of(cls, (), vars(made))
        if settings is not None:
            made = Flyweight._one(settings, made)
        return made if key is None else Flyweight._one(key, made)

    @staticmethod
    def _one(key: Any, made: Any) -> Any:
        """The object that is kept for a key: this one, unless another thread was quicker.

        `WeakValueDictionary.setdefault` looks and keeps in two steps; that of its dict is one.
        """
        kept: Any = Flyweight._made
        mine = weakref.KeyedRef(made, kept._remove, key)
        while True:
            reference = kept.data.setdefault(key, mine)
            found = reference()
            if found is not None:
                return found
            kept._remove(reference)  # which takes it out only while it is dead

    @property
    def __signature__(cls) -> inspect.Signature:
        """That of the constructor, where `__call__` above would be shown."""
        signature = inspect.signature(type.__getattribute__(cls, "__init__"))
        return signature.replace(parameters=list(signature.parameters.values())[1:])


def key_of(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Settings as a key that is equal only where they are the same; None where there is none."""
    if not cls.__module__.startswith("varscope."):
        return None
    facts = [cls, len(args), *map(told_apart, args)]
    for name, value in kwargs.items():
        facts += name, told_apart(value)
    return None if None in facts else tuple(facts)


def told_apart(value: Any) -> Hashable:
    """A fact that only the same setting has; None where there is none.

    Plain ones by type and text: 0.0 equals -0.0, and 1 equals True.  A list of hooks by which
    objects they are: whoever was made of them holds them, so that no others get their ids while
    the key is there.  Not by their texts, which need not tell all about an object of users.
    """
    if type(value) in PLAIN:
        return type(value), hex(value) if type(value) is int else repr(value)
    if isinstance(value, (list, tuple)) and all(type(type(hook)) is Flyweight for hook in value):
        return tuple(map(id, value))
    return None
