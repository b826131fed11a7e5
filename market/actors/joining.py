"""How a provider's host comes into a market: it finds Ray, joins with a node of its own, and places its offer."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

from market.actors.host_config import Hardware, HostConfig, own_address, own_versions
from market.actors.ray_node import NodeSettings, RayNode, enter_ray, join, write_token
from market.actors.remeasuring import Measure
from market.actors.selftesting import known
from market.actors.stable import Stable
from market.actors.status_lines import say
from market.client import Market, MarketUnreachable, Refused
from trainers.environments.building import can_build

PAUSE_AWAY_S = 0.5

Json = dict[str, Any]


def find_ray(config: HostConfig, market: Market, stopping: Event) -> Json | None:
    """{address, token, versions} from the market, or from the configuration; None when told to stop meanwhile."""
    if config.ray is not None:
        token = config.ray.token_path.read_text(encoding="ascii").strip()
        return {"address": config.ray.address, "token": token}
    told = False
    while not stopping.is_set():
        try:
            return market.ray()
        except (MarketUnreachable, Refused) as reason:
            if isinstance(reason, Refused) and reason.code != "ray_starting":
                raise
            if not told:
                say("waiting", message=str(reason))
                told = True
            stopping.wait(PAUSE_AWAY_S)
    return None


def join_ray(config: HostConfig, units: int, access: Json) -> RayNode:
    """A node of this machine on the market's cluster, to which this process is connected."""
    config.home.mkdir(parents=True, exist_ok=True)
    token_path = config.home / "ray.token"
    write_token(token_path, access["token"])
    node_ip = config.node_ip or own_address(access["address"])
    enter_ray(token_path, node_ip)
    settings = NodeSettings(
        node_ip=node_ip, token_path=token_path, cpus=units + 1, object_store_bytes=config.object_store_bytes
    )
    node = join(settings, access["address"])
    node.connect()
    return node


def prepare_offer(
    config: HostConfig, hardware: Hardware, node_id: str, stable: Stable, measured_by: Measure
) -> tuple[str, Json]:
    """The isolation that a warm worker has, and the offer as it is placed; worker and measurements are made side by side."""
    with ThreadPoolExecutor(2) as beside:
        no_environments = beside.submit(can_build, config.home) if config.environments else None
        measured: Future[dict[str, int]] = beside.submit(measured_by, 0)
        stable.fill()
        isolation = stable.wait_warm()
        figures = measured.result()
    body = offer_body(config, hardware, node_id, isolation, figures)
    body["selftest"] = known(config.home) if isolation == "sandbox" else None
    if no_environments is not None:
        why = no_environments.result()
        body["environments"] = not why
        if why:
            say("environments", message=why)
    return isolation, body


def place(market: Market, body: Json, stopping: Event) -> None:
    """Place the offer as soon as the market takes it, unless told to stop meanwhile."""
    while not stopping.is_set():
        try:
            market.place_offer(body)
            return
        except (MarketUnreachable, Refused) as reason:
            if isinstance(reason, Refused) and reason.code != "market_closing":
                raise
            stopping.wait(PAUSE_AWAY_S)


_TERMS = (
    "allow", "deny", "own", "max_units_per_customer", "max_unit_ms_per_customer_day", "min_lease_ms", "max_lease_ms", "maintenance",
)  # fmt: skip


def offer_body(config: HostConfig, hardware: Hardware, node_id: str, isolation: str, measured: dict[str, int]) -> Json:
    """The offer as POST /v1/offers takes it."""
    return {
        "id": config.offer,
        "name": config.name,
        "gpu": hardware.gpu,
        "gpus": hardware.units,
        "vram_gib": hardware.vram_gib,
        "region": config.region,
        "price_nanos_per_gpu_hour": config.price_nanos_per_gpu_hour,
        "floor_price_nanos_per_gpu_hour": config.floor_price_nanos_per_gpu_hour,
        "isolation": isolation,
        "measured": measured,
        "shares": sorted(config.shares),
        "node": node_id,
        "versions": own_versions(),
        "notice_ms": config.notice_ms,
        "until_ms": config.until_ms,
        "prices": [one.model_dump() for one in config.prices],
        "zone": config.zone,
        **{name: getattr(config, name) for name in _TERMS},
        "network": config.network,
    }
