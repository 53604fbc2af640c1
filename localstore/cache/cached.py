"""`@cached`: a function whose results are kept in the cache of the tenant that it is called for."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache, wraps
from inspect import Parameter, Signature, signature
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from localstore.cache import values
from localstore.cache.interface import Cache, check_ttl
from localstore.cache.keys import KEY_BYTES_MAX, check_key
from localstore.errors import ConfigurationError

DIGEST_BYTES: Final = 20

_MAIN: Final = ("__main__", "__mp_main__")
"""What every program is called, and what the processes that it starts call it."""

NAME_LENGTH_MAX: Final = 100
"""How much of a function's name is in a key whose other part is a digest of all of it."""


O = TypeVar("O")  # noqa: E741 - the owner
P = ParamSpec("P")
T = TypeVar("T")


def cached(
    *,
    ttl: float | None = None,
    tables: Iterable[Any] = (),
    cache: Callable[..., Cache] | None = None,
    key: str | None = None,
) -> Callable[[Callable[Concatenate[O, P], Awaitable[T]]], Callable[Concatenate[O, P], Awaitable[T]]]:
    """Keep what an `async` function returns, by its arguments, in the cache of its first one, a tenant.

    With `tables` (models or names) a result is made again as soon as a row of theirs changes, whoever changes it;
    without, after `ttl` seconds. One caller makes it while others wait. Arguments and results are what JSON can hold.
    Where the first argument is no tenant, `cache` is given the call's arguments and returns the cache to use.

    Entries belong to a function by its module and name, or by `key`. A function made inside another one from what is
    around it needs a `key` that tells what it was made from, else it is a ConfigurationError: all that are made there
    have one name.
    """
    check_ttl(ttl)
    if key is not None:
        check_key(key)
    named = tuple(tables)

    def decorate(
        function: Callable[Concatenate[O, P], Awaitable[T]],
    ) -> Callable[Concatenate[O, P], Awaitable[T]]:
        shape = signature(function)
        name = _name(function) if key is None else key

        @wraps(function)
        async def call(owner: O, /, *args: P.args, **kwargs: P.kwargs) -> T:
            async def make() -> T:
                return await function(owner, *args, **kwargs)

            own = _key(name, shape, owner, args, kwargs)
            place = _cache_of(owner) if cache is None else cache(owner, *args, **kwargs)
            return await place.remember(own, make, ttl=ttl, tables=named)

        return call

    return decorate


def _cache_of(owner: object) -> Cache:
    found = getattr(owner, "cache", None)
    if not isinstance(found, Cache):
        raise ConfigurationError(
            f"{type(owner).__name__} is no tenant, so @cached does not know which cache to use",
            hint="pass a tenant first, or say which: @cached(cache=lambda storage, company: storage.cache(company))",
        )
    return found


def _name(function: Callable[..., Any]) -> str:
    if "<locals>" in function.__qualname__ and function.__closure__:
        raise ConfigurationError(
            f"{function.__qualname__} uses what is around it, and every function made there has this name",
            hint='name what it was made from, as in @cached(key=f"price of {currency}"), or pass that as an argument',
        )
    module = _program() if function.__module__ in _MAIN else function.__module__
    return f"{module}.{function.__qualname__}"


@lru_cache(maxsize=1)
def _program() -> str:
    """Return a name for the program that runs, in place of `__main__`, which every program has.

    It is the module's own where it was started as one, else its file. What has neither, as a shell, shares with nobody.
    """
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None and spec.name not in _MAIN:
        return str(spec.name)
    told = os.path.realpath(file) if file is not None else secrets.token_hex(DIGEST_BYTES)
    return f"__main__#{hashlib.blake2b(os.fsencode(told), digest_size=DIGEST_BYTES).hexdigest()}"


def _key(name: str, shape: Signature, owner: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return one key for all ways to write a call: by position, by name, in any order, and with defaults left out."""
    bound = shape.bind(owner, *args, **kwargs)
    bound.apply_defaults()
    given = [_plain(shape.parameters[given], value) for given, value in list(bound.arguments.items())[1:]]
    key = f"{name}({values.encode(given).decode()[1:-1]})"
    if len(key.encode()) <= KEY_BYTES_MAX // 2:
        return key
    return f"{name[:NAME_LENGTH_MAX]}(#{hashlib.blake2b(key.encode(), digest_size=DIGEST_BYTES).hexdigest()})"


def _plain(parameter: Parameter, value: Any) -> Any:
    """Return an argument as JSON can hold it; what is given by name has no order."""
    if parameter.kind is Parameter.VAR_KEYWORD:
        return dict(sorted(value.items()))
    return list(value) if isinstance(value, tuple) else value
