"""A scratch database on disk for tables that may be larger than the memory.

It is DuckDB, not polars, because joins, groups and sorts of names must keep a limit: docs/datasets.md has the
measurements.
"""

from __future__ import annotations

import _thread
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from benchmark.process.memory import address_space_left, available_memory, check_address_space
from methods.errors import UserError

if TYPE_CHECKING:
    import duckdb

MEMORY_VARIABLE = "ADAPTREC_MEMORY"
"""Environment variable: gigabytes that preparing a dataset may take; half of what is free if unset."""
STREAM_ROWS = 1 << 20
"""Rows of a batch that comes out of the database."""
_LEAST = 32 << 20
_LEAST_ADDRESS_SPACE = 256 << 20
"""With less, DuckDB can wait for ever for a lock of its own: an allocation fails as it reads a table."""
BEGIN_SECONDS = 10.0
"""Seconds after which a thread that has not begun is given up."""


def memory_budget() -> int:
    """Bytes that a preparation may take, from $ADAPTREC_MEMORY or the machine."""
    check_address_space(_LEAST_ADDRESS_SPACE, "a preparation needs at least")
    written = os.environ.get(MEMORY_VARIABLE)
    if not written:
        return max(_LEAST, int(min(available_memory(), address_space_left())) // 2)
    try:
        budget = int(float(written) * 1e9)
    except (ValueError, OverflowError):
        budget = 0
    if budget < 2 * _LEAST:
        raise UserError(
            f"{MEMORY_VARIABLE}={written} is not valid; it must be a number of gigabytes, at least 0.1."
        )
    return budget


class _OpenWork:
    """Work that the first thread which comes does."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work, self._free = work, threading.Lock()
        self.begun, self.done = threading.Event(), threading.Event()
        self.value: Any = None
        self.failure: BaseException | None = None

    def take(self) -> bool:
        """Take the work, so that no other thread does it; False where one has."""
        return self._free.acquire(blocking=False)

    def run(self) -> None:
        """Do the work, unless another thread has taken it."""
        if not self.take():
            return
        try:
            self.begun.set()
            self.value = self._work()
        except BaseException as error:  # for the thread that waits
            self.failure = error
        finally:
            self.done.set()


class Scratch:
    """Tables on disk and queries over them, one at a time; a query can be interrupted whatever it does."""

    def __init__(self, folder: Path, memory: int) -> None:
        import duckdb

        self.folder = folder
        """For further files: it goes when the database does."""
        self._connection: duckdb.DuckDBPyConnection = duckdb.connect(
            str(folder / "scratch.duckdb"),
            config={
                "memory_limit": f"{memory // 2 >> 20}MiB",  # the other half is for batches and arrays
                "temp_directory": str(folder / "spill"),
                "threads": len(os.sched_getaffinity(0)),
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        )
        self._failure: BaseException | None = None
        self._stopped = False

    def close(self) -> None:
        """End the connection; the folder is the caller's to remove."""
        self._connection.close()

    @contextmanager
    def _named(self, tables: dict[str, Any]) -> Iterator[None]:
        """Let queries name these Arrow tables or readers."""
        for name, table in tables.items():
            self._connection.register(name, table)
        try:
            yield
        finally:
            for name in tables:
                self._connection.unregister(name)

    def run(self, query: str, **tables: Any) -> Any:
        """Run a query that may name `tables`; returns the first row of its result, if any."""
        with self._named(tables):
            return self._call(lambda: self._connection.execute(query).fetchone())

    def column(self, query: str, **tables: Any) -> Any:
        """The first column of a result, as an Arrow array."""
        return pa.chunked_array([batch.column(0) for batch in self.stream(query, **tables)] or [[]])

    def stream(self, query: str, rows: int = STREAM_ROWS, **tables: Any) -> Iterator[Any]:
        """The result of a query in batches of about `rows`."""
        with self._named(tables):
            reader = self._call(lambda: self._connection.sql(query).to_arrow_reader(rows))
            try:
                while (batch := self._call(next, reader, None)) is not None:
                    if len(batch):
                        yield batch
            finally:
                reader.close()

    def reader(self, schema: Any, batches: Iterable[Any]) -> Any:
        """Batches as a table that one query can read once; an error in making them is raised as it is."""
        return pa.RecordBatchReader.from_batches(schema, self._watched(batches))

    def _watched(self, batches: Iterable[Any]) -> Iterator[Any]:
        try:
            for batch in batches:
                if self._stopped:
                    return
                yield batch
        except BaseException as error:
            self._failure = error
            raise

    def _call(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run in a thread, so that a ctrl-C reaches this one at once and can end the query; in this one where
        memory or the system allows no other."""
        import duckdb

        task = _OpenWork(partial(work, *arguments))
        try:
            with suppress(RuntimeError):  # "can't start new thread"
                # `threading.Thread` waits for ever where a new thread has too little memory to begin
                _thread.start_new_thread(task.run, ())
                task.begun.wait(BEGIN_SECONDS)
            task.run()
            task.done.wait()
            if task.failure is not None:
                raise task.failure
            return task.value
        except duckdb.Error as error:
            if self._failure is not None:
                raise self._failure from None
            raise _as_user_error(error, self.folder) from error
        except BaseException:
            self._stopped = True
            while not task.done.is_set() and not task.take():
                self._connection.interrupt()
                time.sleep(0.01)
            raise


def _as_user_error(error: Exception, folder: Path) -> Exception:
    """A lack of memory or disk in one line; any other error is a fault of ours."""
    import duckdb

    first = str(error).splitlines()[0]
    if isinstance(error, duckdb.OutOfMemoryException):
        return UserError(
            f"the preparation ran out of memory ({first}); set {MEMORY_VARIABLE} to more gigabytes, or free "
            f"disk space where {folder.parent} lies."
        )
    if isinstance(error, duckdb.IOException):
        return UserError(f"the preparation could not write to {folder}: {first}")
    return error


@contextmanager
def scratch(parent: Path, memory: int | None = None) -> Iterator[Scratch]:
    """A scratch database in a folder of its own below `parent`, which is gone afterwards."""
    budget = memory or memory_budget()
    with (
        tempfile.TemporaryDirectory(dir=parent, prefix="scratch.", suffix=".tmp") as folder,
        closing(Scratch(Path(folder), budget)) as database,
    ):
        yield database
