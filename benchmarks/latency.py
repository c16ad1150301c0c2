"""How long requests take through troth, and through what a user would pick instead.

At a fixed rate, half of what HAProxy's pair can do, a request is sent when its time has come and
not when the last one is answered. With 1 to 1,024 connections each sends its next request as soon
as it has its answer, so with many of them it is throughput that is seen in another form.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks.data_plane import BASELINE, ratios
from benchmarks.data_plane.rig import DIRECT, PATHS, TROTH, Rig
from benchmarks.framework import (
    Benchmark,
    Figure,
    Run,
    absolute,
    interleaved,
    median,
    middle,
    percentile,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_CONNECTIONS = 32
_CROWDS = (1, 32, 256, 1024)


def _run(run: Run) -> Iterator[Figure]:
    run.step("making pods")
    with Rig() as rig:
        seconds = run.choose(4, 1)
        most = [
            rig.closed_loop(BASELINE, connections=_CONNECTIONS, seconds=seconds)
            for _ in run.rounds(3, 1, "what HAProxy can do")
        ]
        rate = median([one.requests / one.seconds for one in most]) / 2
        paced = interleaved(
            {
                name: partial(
                    rig.fixed_rate, name, connections=_CONNECTIONS, seconds=seconds, rate=rate
                )
                for name in PATHS
            },
            run.rounds(7, 2, f"{rate:,.0f} requests per second"),
        )
        for percent in (50, 99):
            yield from _figures(
                f"p{percent} at half load",
                {
                    name: [percentile(each, percent).value for each in rounds]
                    for name, rounds in paced.items()
                },
                target=1.0 if percent == 99 else None,  # noqa: PLR2004 - the one that is promised
            )
        for crowd in _CROWDS:
            closed = interleaved(
                {
                    name: partial(rig.closed_loop, name, connections=crowd, seconds=seconds)
                    for name in PATHS
                },
                run.rounds(5, 1, f"{crowd:,} connections"),
            )
            what = f"with {crowd:,} connections"
            yield from _figures(
                f"p50 {what}", {name: [each.p50 for each in of] for name, of in closed.items()}
            )
            yield from _figures(
                f"p99 {what}", {name: [each.p99 for each in of] for name, of in closed.items()}
            )


def _figures(
    what: str, samples: Mapping[str, Sequence[float]], *, target: float | None = None
) -> Iterator[Figure]:
    """Each pair beside the baseline, the target being troth's; and what troth adds."""
    yield from ratios(what, samples, unit="µs", target=target)
    pairs = zip(samples[TROTH], samples[DIRECT], strict=True)
    yield absolute(
        f"{what}, added by troth",
        middle([with_it - without for with_it, without in pairs]),
        unit="µs",
        note=f"{median(samples[DIRECT]):,.0f} µs with nothing between the pods",
    )


BENCHMARK = Benchmark(
    about="latency at half load and with 1 to 1,024 connections, beside other proxies",
    run=_run,
    needs=("haproxy", "nginx", "stunnel", "wrk", "h2load"),
    needs_root=True,
)
