from __future__ import annotations

import asyncio

import pytest

from troth.agent.wakeups import Wakeups


async def answer() -> str:
    await asyncio.sleep(0)
    return "done"


async def test_work_that_nothing_disturbs_is_waited_for() -> None:
    assert await Wakeups(lambda: True).unless_disturbed(answer()) == "done"


@pytest.mark.parametrize(("disturbs", "result"), [(True, None), (False, "done")])
async def test_work_is_given_up_when_what_happens_disturbs_it(
    *, disturbs: bool, result: str | None
) -> None:
    looked, go_on = asyncio.Event(), asyncio.Event()

    def look() -> bool:
        looked.set()
        return disturbs

    async def work() -> str:
        await go_on.wait()
        return "done"

    wakeups = Wakeups(look)
    waiting = asyncio.create_task(wakeups.unless_disturbed(work()))
    wakeups.wake()
    await looked.wait()
    go_on.set()
    assert await waiting == result


async def test_work_that_must_be_finished_is_disturbed_in_vain() -> None:
    looks: list[None] = []
    go_on = asyncio.Event()

    def look() -> bool:
        looks.append(None)
        if len(looks) == 2:
            go_on.set()
        else:
            wakeups.wake()
        return True

    async def work() -> None:
        await go_on.wait()

    wakeups = Wakeups(look)
    wakeups.wake()
    await wakeups.finish(work())
    assert len(looks) == 2


async def test_what_happened_during_a_wait_is_still_news_after_it() -> None:
    wakeups = Wakeups(lambda: True)
    wakeups.wake()
    assert await wakeups.unless_disturbed(asyncio.Event().wait()) is None
    await asyncio.wait_for(wakeups.awake(), timeout=10)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(wakeups.awake(), timeout=0.01)
