"""The remote sinks that are switched on: which kills concern them, and who carries these there."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from collector import __version__
from collector.announce.outbox import ALERTMANAGER, FORECAST_EVENT, NODE_EVENT, POD_EVENT, WEBHOOK, StoreOutbox
from collector.sinks.delivery import Delivery, Limits
from collector.sinks.kube_event import concerns_node

if TYPE_CHECKING:
    import aiohttp

    from collector.config import Config
    from collector.kube.client import KubeClient
    from collector.sinks.delivery import Outbox, RemoteSink
    from collector.state.store import Store


class Outlets:
    """Raises ConfigError where a setting cannot be used."""

    def __init__(self, config: Config, client: KubeClient | None, store: Store) -> None:
        self._outbox = StoreOutbox(store)
        self._max_age = timedelta(seconds=config.event_max_age)
        self._deliveries: dict[str, Delivery] = {}
        self._session: aiohttp.ClientSession | None = None
        self._limits = Limits()
        """Of all Events together."""
        self._client = client if config.events == "on" else None
        if self._client is not None:
            from collector.sinks.kube_events import NodeEvents, PodEvents

            self._add(PodEvents(self._client), self._limits)
            self._add(NodeEvents(self._client), self._limits)
        if config.webhook_url or config.alertmanager_url:
            self._add_posts(config)
        self._outbox.expire_abandoned(self.names, datetime.now(UTC) - self._max_age)

    def _add_posts(self, config: Config) -> None:
        from collector.sinks.alertmanager import Alertmanager
        from collector.sinks.http_post import open_session, parse_target
        from collector.sinks.webhook import Webhook

        session = self._session = open_session(f"oom-collector/{__version__}")
        if config.webhook_url is not None:
            target = parse_target("--webhook-url", config.webhook_url)
            secret_file = config.webhook_secret_file
            self._add(Webhook(session, target, secret_file=secret_file, whole=self._outbox.whole))
        if config.alertmanager_url is not None:
            target = parse_target("--alertmanager-url", config.alertmanager_url)
            self._add(Alertmanager(session, target, resolve_after=config.alertmanager_resolve_after))

    def carry(self, forecasts: Outbox) -> None:
        """Before run()."""
        if self._client is not None:
            from collector.sinks.kube_events import ForecastEvents

            sink = ForecastEvents(self._client)
            self._deliveries[sink.name] = Delivery(sink, forecasts, max_age=self._max_age, limits=self._limits)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all that may be carried."""
        return tuple(dict.fromkeys((*self._deliveries, *((FORECAST_EVENT,) if self._client else ()))))

    def concerned(self, document: dict[str, Any]) -> tuple[str, ...]:
        """The sinks that are to be told of this kill."""
        reasons = {
            POD_EVENT: document["pod"] is not None,
            NODE_EVENT: concerns_node(document),
            WEBHOOK: True,
            ALERTMANAGER: True,
        }
        return tuple(sink for sink in self._deliveries if reasons.get(sink))

    def wake(self) -> None:
        for delivery in self._deliveries.values():
            delivery.wake()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for name, delivery in self._deliveries.items():
                tasks.create_task(delivery.run(), name=name)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _add(self, sink: RemoteSink, limits: Limits | None = None) -> None:
        self._deliveries[sink.name] = Delivery(sink, self._outbox, max_age=self._max_age, limits=limits)
