"""A cluster is followed through everything that an API server and a network can do to it.

Delays between attempts are real here, but at their shortest.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from lightkube.config.kubeconfig import KubeConfig
from lightkube.config.models import Cluster, User
from structlog.testing import capture_logs
from tests.cluster.following import eventually, following
from tests.kube.fake_api import (
    NAMESPACES,
    NODES,
    OLD_POLICIES,
    PODS,
    POLICIES,
    SERVICES,
    SLICES,
    Exchange,
    Object,
    event,
    fake_api,
    thing,
)

from troth.cluster.state import NAMESPACES as NAMESPACE_RESOURCE
from troth.cluster.state import follow
from troth.errors import EnvironmentLackError, PeerError, Severity
from troth.kube.client import ApiClient
from troth.kube.errors import RefusedError
from troth.kube.follow import events
from troth.kube.reflector import Broken, Ended, Opened, Watch
from troth.mesh.model import Endpoint
from troth.policy.model import Mode

if TYPE_CHECKING:
    from collections.abc import Callable

    from troth.cluster.world import ClusterState
    from troth.kube.reflector import Event


def policy(mode: str, name: str = "default", **metadata: str) -> Object:
    return thing(name, "shop", metadata=metadata, spec={"mtls": {"mode": mode}})


def pod(name: str, ip: str) -> Object:
    return thing(
        name,
        "shop",
        metadata={"annotations": {"troth.dev/captured": "true"}},
        spec={"nodeName": "n1", "serviceAccountName": "web", "containers": []},
        status={"phase": "Running", "podIPs": [{"ip": ip}]},
    )


def names(state: ClusterState) -> set[str]:
    return set(state.namespaces)


async def test_the_first_state_is_complete() -> None:
    async with fake_api() as api:
        await api.put(NAMESPACES, thing("shop", metadata={"labels": {"troth.dev/mesh": "enabled"}}))
        await api.put(PODS, pod("web", "10.0.0.5"))
        await api.put(POLICIES, policy("STRICT"))
        service = {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]}
        await api.put(SERVICES, thing("web", "shop", spec=service))
        label = {"labels": {"kubernetes.io/service-name": "web"}}
        ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
        endpoints = [{"addresses": ["10.0.0.5"], "conditions": {"ready": True}}]
        await api.put(
            SLICES,
            thing(
                "web-1",
                "shop",
                metadata=label,
                addressType="IPv4",
                ports=ports,
                endpoints=endpoints,
            ),
        )
        async with following(api.config) as followed:
            state = await followed.until(lambda _: True)
    assert state.namespaces["shop"].in_mesh
    assert (state.pods["uid-web"].captured, state.pods["uid-web"].addresses) == (
        True,
        ("10.0.0.5",),
    )
    assert [each.mode for each in state.policies] == [Mode.STRICT]
    assert state.services["shop/web"].ports[0].endpoints == (Endpoint("10.0.0.5", 8080),)


async def test_nothing_is_told_before_every_kind_is_known() -> None:
    release = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await release.wait()
        await exchange.refuse(500)

    async with fake_api() as api:
        await api.put(NAMESPACES, thing("shop"))
        await api.put(PODS, pod("web", "10.0.0.5"))
        api.faults[PODS].append(wait)
        async with following(api.config) as followed:
            first = asyncio.ensure_future(followed.until(lambda _: True))
            await eventually(lambda: len(api.requests) >= 9)  # five lists and four watches
            release.set()
            state = await first
    assert (names(state), set(state.pods)) == ({"shop"}, {"uid-web"})


async def test_what_is_made_changed_and_deleted_is_seen() -> None:
    async with fake_api() as api, following(api.config) as followed:
        await followed.until(lambda state: names(state) == set())
        await api.put(POLICIES, policy("STRICT"))
        await followed.until(lambda state: [p.mode for p in state.policies] == [Mode.STRICT])
        await api.put(POLICIES, policy("DISABLE"))
        await followed.until(lambda state: [p.mode for p in state.policies] == [Mode.DISABLE])
        await api.delete(POLICIES, "shop/default")
        await followed.until(lambda state: state.policies == ())


async def test_a_policy_is_told_at_once_however_close_behind_another_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("troth.cluster.state._SETTLE_SECONDS", 3600)
    async with fake_api() as api, following(api.config) as followed:
        await followed.until(lambda state: names(state) == set())
        await api.put(POLICIES, policy("STRICT"))
        await followed.until(lambda state: [p.mode for p in state.policies] == [Mode.STRICT])


async def test_endpoints_that_change_change_their_service() -> None:
    def endpoints(state: ClusterState) -> list[str]:
        ports = state.services["shop/web"].ports if state.services else ()
        return [each.address for port in ports for each in port.endpoints]

    def slice_of(*addresses: str) -> Object:
        label = {"labels": {"kubernetes.io/service-name": "web"}}
        ports = [{"port": 8080}]
        there = [{"addresses": [address]} for address in addresses]
        return thing(
            "web-1", "shop", metadata=label, addressType="IPv4", ports=ports, endpoints=there
        )

    async with fake_api() as api, following(api.config) as followed:
        await api.put(SERVICES, thing("web", "shop", spec={"ports": [{"port": 80}]}))
        await followed.until(lambda state: "shop/web" in state.services)
        await api.put(SLICES, slice_of("10.0.0.5", "10.0.0.6"))
        await followed.until(lambda state: endpoints(state) == ["10.0.0.5", "10.0.0.6"])
        await api.put(SLICES, slice_of("10.0.0.6"))
        await followed.until(lambda state: endpoints(state) == ["10.0.0.6"])
        await api.delete(SLICES, "shop/web-1")
        await followed.until(lambda state: endpoints(state) == [])


async def test_a_list_in_pages_is_whole() -> None:
    async with fake_api() as api:
        api.page = 2
        for number in range(5):
            await api.put(NAMESPACES, thing(f"n{number}"))
        async with following(api.config) as followed:
            state = await followed.until(lambda _: True)
    assert names(state) == {f"n{number}" for number in range(5)}


async def test_what_there_is_much_of_is_listed_from_the_servers_cache() -> None:
    async with fake_api() as api, following(api.config) as followed:
        await followed.until(lambda _: True)
        lists = {each.path: each.query for each in api.requests if not each.is_watch}
    cached = {path for path, query in lists.items() if query.get("resourceVersion") == "0"}
    assert cached == {PODS, SERVICES, SLICES}


async def test_a_list_that_comes_in_pieces_is_whole() -> None:
    pods = [pod(f"web-{number}", f"10.0.0.{number}") for number in range(1, 6)]
    for number, each in enumerate(pods):
        each["metadata"]["resourceVersion"] = str(number)
    body = json.dumps(
        {"metadata": {"resourceVersion": "9"}, "items": pods}, separators=(",", ":")
    ).encode()

    async def in_pieces(exchange: Exchange) -> None:
        await exchange.begin()
        for begin in range(0, len(body), 50):
            await exchange.send(body[begin : begin + 50])
        await exchange.end()

    async with fake_api() as api:
        api.faults[PODS].append(in_pieces)
        async with following(api.config) as followed:
            state = await followed.until(lambda _: True)
    assert set(state.pods) == {f"uid-web-{number}" for number in range(1, 6)}


async def test_after_410_a_list_from_the_cache_is_not_older_than_what_is_known() -> None:
    async def gone(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.send(event("ERROR", {"kind": "Status", "code": 410, "message": "old"}))
        await exchange.end()

    async with fake_api() as api:
        await api.put(PODS, pod("web", "10.0.0.5"))
        api.faults[PODS].append(api.pass_on)
        api.faults[PODS].append(gone)
        async with following(api.config) as followed:
            await followed.until(lambda _: True)

            def lists() -> list[Exchange]:
                return [each for each in api.requests if each.path == PODS and not each.is_watch]

            await eventually(lambda: len(lists()) == 2)
    assert [each.query.get("resourceVersion") for each in lists()] == ["0", "2"]


async def test_watches_go_on_from_the_list_with_bookmarks_and_an_end() -> None:
    async with fake_api() as api, following(api.config) as followed:
        await api.put(NAMESPACES, thing("shop"))
        await followed.until(lambda state: names(state) == {"shop"})
        await api.put(NAMESPACES, thing("bank"))
        await followed.until(lambda state: "bank" in names(state))
        watches = [request for request in api.requests if request.is_watch]
    assert {watch.path for watch in watches} == {NAMESPACES, PODS, SERVICES, SLICES, POLICIES}
    for watch in watches:
        assert watch.query["allowWatchBookmarks"] == "true"
        assert int(watch.query["resourceVersion"]) > 0
        assert int(watch.query["timeoutSeconds"]) >= 300


async def test_a_node_that_is_given_is_the_only_one_followed() -> None:
    async with fake_api() as api, following(api.config, node_name="n1") as followed:
        await followed.until(lambda _: True)
        (request,) = (each for each in api.requests if each.path == NODES and not each.is_watch)
    assert request.query["fieldSelector"] == "metadata.name=n1"


async def test_without_the_policies_kind_there_are_no_policies() -> None:
    async with fake_api() as api:
        del api.kinds[POLICIES]
        async with following(api.config) as followed:
            state = await followed.until(lambda _: True)
            assert (state.policies, followed.troubles) == ((), [])


async def test_an_istio_that_serves_only_v1beta1_will_do() -> None:
    async with fake_api() as api:
        api.kinds[OLD_POLICIES] = api.kinds.pop(POLICIES)
        await api.put(OLD_POLICIES, {"apiVersion": "security.istio.io/v1beta1", **policy("STRICT")})
        async with following(api.config) as followed:
            state = await followed.until(lambda _: True)
            assert [each.mode for each in state.policies] == [Mode.STRICT]
            await api.delete(OLD_POLICIES, "shop/default")
            await followed.until(lambda state: state.policies == ())


async def test_another_kind_that_is_missing_is_a_lack() -> None:
    async with fake_api() as api:
        del api.kinds[SLICES]
        async with following(api.config) as followed:
            error = await followed.until_trouble("endpointslices.discovery.k8s.io")
    assert isinstance(error, EnvironmentLackError)
    assert "doesn't serve endpointslices.discovery.k8s.io v1" in str(error)


async def test_a_policy_that_became_wrong_stays_as_it_was_and_is_told() -> None:
    async with fake_api() as api, following(api.config) as followed:
        await api.put(POLICIES, policy("STRICT"))
        await followed.until(lambda state: len(state.policies) == 1)
        await api.put(POLICIES, policy("MAYBE"))
        state = await followed.until(lambda state: bool(state.problems))
        assert [each.mode for each in state.policies] == [Mode.STRICT]
        assert state.problems[0].path == "spec.mtls.mode"
        await api.put(POLICIES, policy("DISABLE", name="other"))
        state = await followed.until(lambda state: len(state.policies) == 2)
        await api.put(POLICIES, policy("PERMISSIVE"))
        await followed.until(lambda state: not state.problems)


async def test_a_policy_for_labels_that_no_pod_can_have_replaces_the_version_before_it() -> None:
    async with fake_api() as api, following(api.config) as followed:
        await api.put(POLICIES, policy("DISABLE"))
        await followed.until(lambda state: len(state.policies) == 1)
        changed = policy("STRICT")
        changed["spec"] = {"selector": {"matchLabels": {"app": "a b"}}, "mtls": {"mode": "STRICT"}}
        await api.put(POLICIES, changed)
        state = await followed.until(lambda state: bool(state.problems))
        assert [(each.mode, each.selector) for each in state.policies] == [
            (Mode.STRICT, {"app": "a b"})
        ]
        assert state.problems[0].severity is Severity.WARNING


async def test_what_is_left_out_of_a_service_is_told_once_and_logged() -> None:
    greedy: dict[str, object] = {"externalIPs": [f"192.0.2.{n}" for n in range(9)]}
    greedy |= {"clusterIP": "10.96.0.1", "ports": [{"port": n} for n in range(1, 101)]}
    async with fake_api() as api:
        await api.put(SERVICES, thing("web", "shop", spec=greedy))
        with capture_logs() as logs:
            async with following(api.config) as followed:
                state = await followed.until(lambda state: bool(state.services))
                await api.put(SERVICES, thing("api", "shop", spec={}))
                await followed.until(lambda state: "shop/api" in state.services)
    assert len(state.services["shop/web"].external_ips) == 2
    (problem,) = map(str, state.problems)
    assert "Service shop/web: spec.externalIPs: has 9 addresses" in problem
    assert [log["problem"] for log in logs if "problem" in log] == [problem]


async def test_an_object_of_a_megabyte_is_read() -> None:
    async with fake_api() as api, following(api.config) as followed:
        await api.put(NAMESPACES, thing("big", metadata={"annotations": {"a": "x" * 2**20}}))
        await followed.until(lambda state: names(state) == {"big"})
        await api.put(NAMESPACES, thing("next"))
        await followed.until(lambda state: names(state) == {"big", "next"})


async def test_line_ends_of_unicode_are_none_of_a_watchs() -> None:
    async with fake_api() as api, following(api.config) as followed:
        await followed.until(lambda _: True)
        odd = "\x85 \u2028 \u2029"
        await api.put(NAMESPACES, thing("odd", metadata={"annotations": {"a": odd}}))
        await followed.until(lambda state: names(state) == {"odd"})
        assert followed.troubles == []


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"f:a": value}
    return value


@pytest.mark.parametrize("early", [True, False], ids=["in the list", "in the watch"])
async def test_an_object_nested_deeper_than_python_recurses_hides_nothing(*, early: bool) -> None:
    fields = json.dumps(nested(400)).replace("1", json.dumps(nested(400)))
    fields = fields.replace("1", json.dumps(nested(400)))
    deep = json.dumps(policy("STRICT")).replace('"spec"', f'"status": {fields}, "spec"')
    version = '"metadata": {"resourceVersion": "7", '
    deep = deep.replace('"metadata": {', version)

    async def listed(exchange: Exchange) -> None:
        body = f'{{"metadata": {{"resourceVersion": "8"}}, "items": [{deep}]}}'
        await exchange.answer(body.encode())

    async def watched(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.send(b'{"type": "ADDED", "object": ' + deep.encode() + b"}\n")
        await asyncio.Event().wait()

    async def empty(exchange: Exchange) -> None:
        await exchange.answer(b'{"metadata": {"resourceVersion": "1"}, "items": []}')

    async with fake_api() as api:
        api.faults[POLICIES] += [listed] if early else [empty, watched]
        async with following(api.config) as followed:
            state = await followed.until(lambda state: bool(state.policies))
    assert [each.mode for each in state.policies] == [Mode.STRICT]


async def refuse_503(exchange: Exchange) -> None:
    await exchange.refuse(503, "etcd has no leader")


async def drop(exchange: Exchange) -> None:
    exchange.drop()


async def half_a_line(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.send(event("ADDED", thing("ghost"))[:-20])
    exchange.drop()


async def half_a_line_and_a_good_end(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.send(event("ADDED", thing("ghost"))[:-20])
    await exchange.end()


async def no_json(exchange: Exchange) -> None:
    await exchange.answer(b"<html>Please log in</html>\n")


async def json_of_another_kind(exchange: Exchange) -> None:
    await exchange.answer(b'{"hello": ["world"]}\n')


async def opened_and_ended(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.end()


async def gone(exchange: Exchange) -> None:
    await exchange.refuse(410, "too old resource version")


async def error_event(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.send(event("ERROR", {"kind": "Status", "code": 500, "message": "\x1b[2J"}))
    await exchange.end()


async def nameless_object(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.send(event("ADDED", {"metadata": {}}))
    await exchange.end()


FAULTS = [
    refuse_503,
    drop,
    half_a_line,
    half_a_line_and_a_good_end,
    no_json,
    json_of_another_kind,
    opened_and_ended,
    gone,
    error_event,
    nameless_object,
]


@pytest.mark.parametrize("fault", FAULTS, ids=[each.__name__ for each in FAULTS])
@pytest.mark.parametrize("healthy", [0, 1], ids=["the list", "the watch"])
async def test_after_a_fault_the_view_is_the_servers_again(
    fault: Callable[[Exchange], Any], healthy: int
) -> None:
    async with fake_api() as api:
        await api.put(NAMESPACES, thing("shop"))
        await api.put(NAMESPACES, thing("bank"))

        async def well(exchange: Exchange) -> None:
            await api._list(exchange)

        api.faults[NAMESPACES] += [well] * healthy + [fault]
        async with following(api.config) as followed:
            await followed.until(lambda state: names(state) == {"shop", "bank"})
            await eventually(lambda: not api.faults[NAMESPACES])
            await api.delete(NAMESPACES, "/bank")
            await api.put(NAMESPACES, thing("inn"))
            state = await followed.until(lambda state: names(state) == {"shop", "inn"})
    assert "ghost" not in names(state)


async def test_deletions_before_a_410_in_the_stream_are_found() -> None:
    async with fake_api() as api:
        await api.put(NAMESPACES, thing("shop"))
        await api.put(NAMESPACES, thing("bank"))
        async with following(api.config) as followed:
            await followed.until(lambda state: names(state) == {"shop", "bank"})
            await api.stop()
            await api.delete(NAMESPACES, "/bank")
            api.compact()
            await api.start()
            await followed.until(lambda state: names(state) == {"shop"})


async def test_a_server_that_is_not_there_yet_is_waited_for_and_named() -> None:
    async with fake_api() as api:
        await api.stop()
        await api.put(NAMESPACES, thing("shop"))
        async with following(api.config) as followed:
            waiting = asyncio.ensure_future(followed.until(lambda _: True))
            await eventually(lambda: bool(followed.troubles))
            assert not waiting.done()
            error = next(iter(followed.troubles[-1].values()))
            assert isinstance(error, PeerError)
            assert str(error).startswith(
                f"API server http://127.0.0.1:{api.port}: can't be connect"
            )
            await api.start()
            assert names(await waiting) == {"shop"}
            await eventually(lambda: not followed.troubles[-1])


async def test_a_missing_permission_is_named_and_its_grant_ends_the_trouble() -> None:
    async def forbid(exchange: Exchange) -> None:
        await exchange.refuse(403, 'pods is forbidden: User "n" cannot list resource "pods"')

    async with fake_api() as api:
        api.faults[PODS].append(forbid)
        async with following(api.config) as followed:
            await followed.until(lambda _: True)
            error = followed.troubles[0]["pods"]
    assert isinstance(error, EnvironmentLackError)
    assert error.lack == (
        f"no permission to list pods in all namespaces (API server http://127.0.0.1:{api.port}: "
        '403 pods is forbidden: User "n" cannot list resource "pods")'
    )
    assert "apiGroups [''], resources ['pods'], verbs ['list', 'watch']" in error.remedy


async def test_who_may_list_but_not_watch_is_told_so_and_still_served() -> None:
    async def forbid(exchange: Exchange) -> None:
        await exchange.refuse(403, "no")

    async with fake_api() as api:

        async def well(exchange: Exchange) -> None:
            await api._list(exchange)

        await api.put(NAMESPACES, thing("shop"))
        api.faults[NAMESPACES] += [well, forbid]
        async with following(api.config) as followed:
            await followed.until(lambda state: names(state) == {"shop"})
            await eventually(lambda: bool(followed.troubles))
    assert "no permission to watch namespaces" in str(followed.troubles[0]["namespaces"])


async def test_a_refused_token_is_named() -> None:
    async def unauthorized(exchange: Exchange) -> None:
        await exchange.refuse(401, "Unauthorized")

    async with fake_api() as api:
        api.faults[PODS].append(unauthorized)
        async with following(api.config) as followed:
            error = await followed.until_trouble("pods")
    assert isinstance(error, PeerError)
    assert "refused to list pods: 401 Unauthorized; see that the token" in str(error)


async def watched(client: ApiClient) -> list[Event[Any]]:
    happening = events(client, NAMESPACE_RESOURCE, Watch("1"), jitter=lambda: 0.0)
    async with aclosing(happening):
        return [event async for event in happening]


async def test_a_watch_through_which_nothing_comes_any_more_is_begun_again() -> None:
    async with fake_api() as api:
        server = ApiClient(api.config, silence_seconds=1.0)
        assert await watched(server) == [Opened(), Ended()]
        await server.aclose()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        pytest.param("7", 7, id="seconds"),
        pytest.param("86400", 60, id="for too long"),
        pytest.param("Wed, 21 Oct 2026 07:28:00 GMT", 0, id="a date"),
        pytest.param("-5", 0, id="negative"),
        pytest.param("", 0, id="empty"),
    ],
)
async def test_a_server_says_how_long_to_leave_it_alone(header: str, seconds: float) -> None:
    async def busy(exchange: Exchange) -> None:
        await exchange.refuse(429, "slow down", headers=f"Retry-After: {header}\r\n")

    async with fake_api() as api:
        server = ApiClient(api.config)
        api.faults[NAMESPACES].append(busy)
        with pytest.raises(RefusedError) as raised:
            await server.list(NAMESPACE_RESOURCE)
        await server.aclose()
    assert raised.value.retry_after == seconds


async def test_what_the_server_says_does_not_reach_the_terminal_raw() -> None:
    async with fake_api() as api:
        server = ApiClient(api.config)
        api.faults[NAMESPACES].append(error_event)
        *_, broken = await watched(server)
        await server.aclose()
    assert isinstance(broken, Broken)
    assert str(broken.error).endswith("500 ?[2J")


@pytest.mark.parametrize(
    "cluster",
    [
        pytest.param(Cluster(server="https://h", certificate_auth="/nowhere/ca.crt"), id="no CA"),
        pytest.param(
            Cluster(server="https://h", certificate_auth_data="bm8="), id="a CA that is none"
        ),
        pytest.param(Cluster(server="https://[::1"), id="no URL"),
    ],
)
async def test_a_configuration_that_can_not_be_used_is_a_lack(cluster: Cluster) -> None:
    config = KubeConfig.from_one(cluster=cluster, user=User(token="t")).get()  # noqa: S106 - none
    assert config is not None
    with pytest.raises(EnvironmentLackError, match="the Kubernetes configuration can't be used"):
        await anext(follow(config))


async def test_a_connection_given_up_in_its_handshake_is_closed() -> None:
    connected: asyncio.Future[asyncio.StreamReader] = asyncio.get_running_loop().create_future()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)  # of its ClientHello
        connected.set_result(reader)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1") as listener:
        _, port = listener.sockets[0].getsockname()
        config = KubeConfig.from_one(
            cluster=Cluster(server=f"https://127.0.0.1:{port}"),
            user=User(token="t"),  # noqa: S106 - none
        ).get()
        assert config is not None
        server = ApiClient(config)
        asking = asyncio.create_task(server.list(NAMESPACE_RESOURCE))
        reader = await connected
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await reader.read()  # to its end, which comes while `asking` still refers to the connection
        await server.aclose()


async def test_a_token_file_that_disappeared_is_a_lack() -> None:
    async with fake_api() as api:
        user = User(token="t", token_file="/nowhere/token")  # noqa: S106 - none
        server = ApiClient(api.config._replace(user=user))
        with pytest.raises(EnvironmentLackError, match="no usable credentials"):
            await server.list(NAMESPACE_RESOURCE)
        await server.aclose()
