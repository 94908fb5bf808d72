"""The client of a cluster: is it one, and what has become of the tasks that it has sent."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from varscope.errors import ArgumentTypeError, ArgumentValueError
from varscope.interop import imported

MAKE_IT = 'varscope.interop.dask needs dask and distributed: pip install "varscope-core[dask]"'


def library(name: str = "distributed") -> Any:
    """dask.distributed, or dask with its arrays."""
    imported("dask.array", MAKE_IT)
    return imported(name, MAKE_IT)


def as_client(client: Any) -> Any:
    """A client that can be used from here."""
    if not isinstance(client, library().Client):
        raise ArgumentTypeError.of("client", "a dask.distributed.Client", client)
    if client.asynchronous:
        raise ArgumentValueError.of(
            "client", "one that waits, as Client(...) gives outside of an event loop", client
        )
    return client


def new_keys(word: str, count: int) -> list[str]:
    """Keys that no other tasks have; the dashboard shows them together, under the word."""
    token = secrets.token_hex(4)
    return [f"{word}-{number:05}-{token}" for number in range(1, count + 1)]


def mapped(client: Any, keys: list[str], fn: Callable[..., Any], *arguments: list[Any]) -> Any:
    """The futures of a function of each of many; none of none."""
    return client.map(fn, *arguments, key=keys) if keys else []


def completed(futures: Sequence[Any]) -> Iterator[tuple[int, bool]]:
    """The number of each future as soon as it is done, and whether it was lost.

    What a task has raised is raised here.  Lost is what cannot be made again: values that were
    sent, and were held by a worker alone that is no more, and all that is made of them.
    """
    numbers = {future.key: number for number, future in enumerate(futures)}
    for future in library().as_completed(futures):
        if future.status == "error":
            future.result()
        # One that was done, and whose worker has died since, is "lost" until it is done again.
        yield numbers[future.key], future.cancelled()


def wait_for(
    futures: Sequence[Any], sizes: Sequence[int], tick: Callable[[int], object]
) -> list[int]:
    """Wait for all, and return the numbers of the lost; `tick` hears of the bytes of each other."""
    lost = []
    for number, is_lost in completed(futures):
        if is_lost:
            lost.append(number)
        else:
            tick(sizes[number])
    return lost
