"""`@cached`: a function whose results are kept in the cache of the tenant that it is called for."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from inspect import Signature, signature
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from localstore.cache import values
from localstore.cache.interface import Cache, check_ttl
from localstore.cache.keys import KEY_BYTES_MAX

DIGEST_BYTES: Final = 20


class HasCache(Protocol):
    """A tenant, or whatever else has a cache of its own."""

    @property
    def cache(self) -> Cache:
        """Return the cache."""
        ...


O = TypeVar("O", bound=HasCache)  # noqa: E741 - the owner
P = ParamSpec("P")
T = TypeVar("T")


def cached(
    *, ttl: float | None = None, tables: Iterable[Any] = ()
) -> Callable[[Callable[Concatenate[O, P], Awaitable[T]]], Callable[Concatenate[O, P], Awaitable[T]]]:
    """Keep what an `async` function returns, by its arguments, in the cache of its first one, a tenant.

    With `tables` (models or names) a result is made again as soon as a row of theirs changes, whoever changes it;
    without, after `ttl` seconds. One caller makes it while others wait. Arguments and results are what JSON can hold.
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
            return await owner.cache.remember(key, make, ttl=ttl, tables=named)

        return call

    return decorate


def _key(name: str, shape: Signature, owner: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return one key for all ways to write a call: by position, by name, and with defaults left out."""
    bound = shape.bind(owner, *args, **kwargs)
    bound.apply_defaults()
    given = [list(value) if isinstance(value, tuple) else value for value in list(bound.arguments.values())[1:]]
    key = f"{name}({values.encode(given).decode()[1:-1]})"
    if len(key.encode()) <= KEY_BYTES_MAX // 2:
        return key
    return f"{name}(#{hashlib.blake2b(key.encode(), digest_size=DIGEST_BYTES).hexdigest()})"
