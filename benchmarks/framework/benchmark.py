"""What a benchmark is, and what it is given to run with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from benchmarks.framework.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

T = TypeVar("T")


class Progress(Protocol):
    """Hears how far benchmarks have come."""

    def begin(self, name: str) -> None:
        """The benchmark of that name begins."""
        ...

    def tell(self, what: str, done: int = 0, total: int | None = None) -> None:
        """What it does now, and how much of that is done."""
        ...


class Run:
    """One run of a benchmark, as the benchmark sees it.

    Args:
        quick: Whether rough figures will do, soon.
        progress: Hears how far it has come.
    """

    def __init__(self, *, quick: bool, progress: Progress) -> None:
        self.quick = quick
        self._progress = progress

    def choose(self, thorough: T, quick: T) -> T:
        """One of two sizes."""
        return quick if self.quick else thorough

    def step(self, what: str) -> None:
        """Tell what is done now."""
        self._progress.tell(what)

    def track(self, items: Sequence[T], what: str) -> Iterator[T]:
        """Go through ``items``, and tell how many are done."""
        for done, item in enumerate(items):
            self._progress.tell(what, done, len(items))
            yield item

    def rounds(self, thorough: int, quick: int, what: str) -> Iterable[int]:
        """As many rounds as there are to be measured, told one by one."""
        return self.track(range(self.choose(thorough, quick)), what)


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """One question about what troth costs.

    Attributes:
        about: The question, in one line.
        run: Measures, and yields figures as they are known.
        needs: Programs that `make bench` installs for it.
        needs_root: It makes network namespaces or a cluster.
    """

    about: str
    run: Callable[[Run], Iterator[Figure]]
    needs: tuple[str, ...] = ()
    needs_root: bool = False
