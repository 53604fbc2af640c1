"""`@cached`: a function whose results are kept in the cache of the tenant that it is called for."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from inspect import Signature, signature
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from localstore.cache import values
from localstore.cache.interface import Cache, check_ttl
from localstore.cache.keys import KEY_BYTES_MAX
from localstore.errors import ConfigurationError

DIGEST_BYTES: Final = 20


O = TypeVar("O")  # noqa: E741 - the owner
P = ParamSpec("P")
T = TypeVar("T")


def cached(
    *, ttl: float | None = None, tables: Iterable[Any] = (), cache: Callable[..., Cache] | None = None
) -> Callable[[Callable[Concatenate[O, P], Awaitable[T]]], Callable[Concatenate[O, P], Awaitable[T]]]:
    """Keep what an `async` function returns, by its arguments, in the cache of its first one, a tenant.

    With `tables` (models or names) a result is made again as soon as a row of theirs changes, whoever changes it;
    without, after `ttl` seconds. One caller makes it while others wait. Arguments and results are what JSON can hold.
    Where the first argument is no tenant, `cache` is given the call's arguments and returns the cache to use.
    """
    check_ttl(ttl)
    named = tuple(tables)

    def decorate(
        function: Callable[Concatenate[O, P], Awaitable[T]],
    ) -> Callable[Concatenate[O, P], Awaitable[T]]:
        shape = signature(function)
        name = f"{function.__module__}.{function.__qualname__}"

        @wraps(function)
        async def call(owner: O, /, *args: P.args, **kwargs: P.kwargs) -> T:
            async def make() -> T:
                return await function(owner, *args, **kwargs)

            key = _key(name, shape, owner, args, kwargs)
            place = _cache_of(owner) if cache is None else cache(owner, *args, **kwargs)
            return await place.remember(key, make, ttl=ttl, tables=named)

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


def _key(name: str, shape: Signature, owner: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return one key for all ways to write a call: by position, by name, and with defaults left out."""
    bound = shape.bind(owner, *args, **kwargs)
    bound.apply_defaults()
    given = [list(value) if isinstance(value, tuple) else value for value in list(bound.arguments.values())[1:]]
    key = f"{name}({values.encode(given).decode()[1:-1]})"
    if len(key.encode()) <= KEY_BYTES_MAX // 2:
        return key
    return f"{name}(#{hashlib.blake2b(key.encode(), digest_size=DIGEST_BYTES).hexdigest()})"
