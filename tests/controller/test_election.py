"""Leader election: two replicas on a hand-moved clock, with a server that loses messages."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from troth.controller.election import Election, ElectionTiming, LeaseRecord

TIMING = ElectionTiming()
WALL = datetime(2026, 3, 1, tzinfo=UTC)


class Server:
    """A lease with optimistic concurrency."""

    def __init__(self) -> None:
        self.record: LeaseRecord | None = None
        self.version = ""

    def write(self, record: LeaseRecord, version: str) -> str | None:
        if version != self.version:
            return None
        self.record, self.version = record, str(int(self.version or 0) + 1)
        return self.version


def attempt(election: Election, server: Server, at: float) -> None:
    """One attempt in which nothing goes wrong and nothing takes time."""
    if election.must_read:
        election.saw(server.record, server.version, at=at)
    record = election.claim(at=at, now=WALL)
    if record is None:
        election.forget()
        return
    version = server.write(record, election.version)
    if version is None:
        election.forget()
    else:
        election.won(record, version, sent=at, at=at)


def test_the_first_to_write_leads_and_the_other_does_not() -> None:
    server = Server()
    a, b = Election("a", TIMING), Election("b", TIMING)
    a.saw(None, "", at=0)
    b.saw(None, "", at=0)
    attempt(a, server, 0)
    attempt(b, server, 0)
    assert a.leads(0)
    assert not b.leads(0)
    assert server.record is not None
    assert (server.record.holder, server.record.duration) == ("a", 15)


def test_a_leader_that_renews_stays_one() -> None:
    server, a, b = Server(), Election("a", TIMING), Election("b", TIMING)
    for at in range(0, 100, 2):
        attempt(a, server, at)
        attempt(b, server, at + 1)
        assert a.leads(at + 1.9)
        assert not b.leads(at + 1.9)
    assert b.holder == "a"
    assert server.record is not None
    assert server.record.transitions == 0


def test_a_dead_leaders_lease_is_taken_over_when_it_was_seen_unchanged_for_its_duration() -> None:
    server, a, b = Server(), Election("a", TIMING), Election("b", TIMING)
    attempt(a, server, 0)
    for at in (1, 3, 5, 7, 9, 11, 13, 15):
        attempt(b, server, at)
        assert not b.leads(at)
    attempt(b, server, 16)
    assert b.leads(16)
    assert server.record is not None
    assert (server.record.holder, server.record.transitions) == ("b", 1)


def test_a_leader_cut_off_steps_down_before_its_lease_is_over() -> None:
    server, a = Server(), Election("a", TIMING)
    attempt(a, server, 0)
    a.forget()
    assert a.leads(9.9)
    assert not a.leads(10)


def test_the_time_of_leading_counts_from_before_the_write_was_sent() -> None:
    a = Election("a", TIMING)
    a.saw(None, "", at=0)
    record = a.claim(at=0, now=WALL)
    assert record is not None
    a.won(record, "1", sent=0, at=8)
    assert not a.leads(10)


def test_a_lease_given_back_is_free_at_once() -> None:
    server, a, b = Server(), Election("a", TIMING), Election("b", TIMING)
    attempt(a, server, 0)
    back = a.give_back(now=WALL)
    assert back is not None
    assert not a.leads(0.1)
    server.write(back, a.version)
    attempt(b, server, 0.1)
    assert b.leads(0.1)


def test_nothing_is_given_back_by_one_who_does_not_have_it() -> None:
    server, a, b = Server(), Election("a", TIMING), Election("b", TIMING)
    attempt(a, server, 0)
    attempt(b, server, 1)
    assert b.give_back(now=WALL) is None
    assert Election("c", TIMING).give_back(now=WALL) is None


def test_a_leader_that_reads_another_holder_steps_down() -> None:
    server, a = Server(), Election("a", TIMING)
    attempt(a, server, 0)
    a.saw(LeaseRecord(holder="b", duration=15), "9", at=1)
    assert not a.leads(1)


def test_a_write_whose_answer_was_lost_is_found_by_reading() -> None:
    server, a = Server(), Election("a", TIMING)
    a.saw(None, "", at=0)
    record = a.claim(at=0, now=WALL)
    assert record is not None
    server.write(record, "")
    a.forget()
    assert not a.leads(1)
    attempt(a, server, 2)
    assert a.leads(2)


def test_errors_in_between_do_not_start_the_wait_anew() -> None:
    server, a, b = Server(), Election("a", TIMING), Election("b", TIMING)
    attempt(a, server, 0)
    for at in range(1, 16):
        attempt(b, server, at)
        b.forget()
    attempt(b, server, 16)
    assert b.leads(16)


@pytest.mark.parametrize(
    ("lease", "renew", "retry"), [(10, 10.0, 2.0), (15, 2.0, 2.0), (15, 10.0, 0.0)]
)
def test_times_under_which_two_could_lead_are_refused(
    lease: int, renew: float, retry: float
) -> None:
    with pytest.raises(ValueError, match="outlast"):
        ElectionTiming(lease=lease, renew=renew, retry=retry)


class TwoReplicas(RuleBasedStateMachine):
    """Messages are delayed and lost in both directions; never do both lead."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.server = Server()
        self.replicas = [Election("a", TIMING), Election("b", TIMING)]
        self.incarnations = 2

    def replica(self, which: int) -> Election:
        return self.replicas[which]

    @rule(seconds=st.floats(min_value=0, max_value=20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        which=st.booleans(),
        to=st.floats(min_value=0, max_value=9),
        back=st.none() | st.floats(min_value=0, max_value=9),
    )
    def read(self, *, which: bool, to: float, back: float | None) -> None:
        self.now += to
        record, version = self.server.record, self.server.version
        if back is None:
            self.replica(which).forget()
            return
        self.now += back
        self.replica(which).saw(record, version, at=self.now)

    @rule(
        which=st.booleans(),
        to=st.none() | st.floats(min_value=0, max_value=9),
        back=st.none() | st.floats(min_value=0, max_value=9),
        other_between=st.booleans(),
    )
    def write(
        self, *, which: bool, to: float | None, back: float | None, other_between: bool
    ) -> None:
        election = self.replica(which)
        if election.must_read:
            return
        sent = self.now
        record, version = election.claim(at=sent, now=WALL), election.version
        if record is None:
            return
        if to is None:
            election.forget()
            return
        self.now += to
        if other_between:
            attempt(self.replica(not which), self.server, self.now)
        taken = self.server.write(record, version)
        if back is None or taken is None:
            election.forget()
            return
        self.now += back
        election.won(record, taken, sent=sent, at=self.now)

    @rule(which=st.booleans())
    def restart(self, *, which: bool) -> None:
        self.incarnations += 1
        self.replicas[which] = Election(f"r{self.incarnations}", TIMING)

    @rule(which=st.booleans())
    def leave(self, *, which: bool) -> None:
        election = self.replica(which)
        back = election.give_back(now=WALL)
        if back is not None:
            self.server.write(back, election.version)
        self.restart(which=which)

    @invariant()
    def never_do_both_lead(self) -> None:
        assert sum(each.leads(self.now) for each in self.replicas) <= 1

    def teardown(self) -> None:
        """Whatever happened: when the other is dead, one leads within the lease and two tries."""
        survivor = self.replicas[0]
        end = self.now + TIMING.lease + 2 * TIMING.retry
        while self.now < end and not survivor.leads(self.now):
            survivor.forget()
            attempt(survivor, self.server, self.now)
            self.now += TIMING.retry
        assert survivor.leads(self.now - TIMING.retry)


TestTwoReplicas = TwoReplicas.TestCase
TestTwoReplicas.settings = settings(stateful_step_count=30)
