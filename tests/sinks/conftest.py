from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest_asyncio

from collector.sinks.http_post import open_session

if TYPE_CHECKING:
    import aiohttp


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    opened = open_session("oom-collector-test")
    yield opened
    await opened.close()
