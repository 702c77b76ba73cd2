"""The SDK's requests over aiohttp: httpx keeps its interface and loses its own connection pool.

The model SDK speaks httpx, whose pool and parser are pure Python and cost a third of a call. Give
it to the SDK as ``http_client=httpx2.AsyncClient(transport=AiohttpTransport(session))``. Answers
are read whole before they are handed on, so it is for calls that do not stream.
"""

from __future__ import annotations

import aiohttp
import httpx2

_ANSWER_BYTES_MAX = 4 << 20


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends httpx requests through an aiohttp session, which stays its owner's to close."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request and return its whole answer.

        Raises:
            httpx2.TransportError: There is none, or it is longer than 4 MiB.
        """
        timeout = request.extensions.get("timeout", {})
        headers = [(name, value) for name, value in request.headers.items() if name != "host"]
        headers = [pair for pair in headers if pair[0] not in ("accept-encoding", "content-length")]
        headers.append(("accept-encoding", "identity"))
        try:
            async with self._session.request(
                request.method,
                str(request.url),
                data=await request.aread(),
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=timeout.get("pool"),
                    sock_connect=timeout.get("connect"),
                    sock_read=timeout.get("read"),
                ),
            ) as response:
                content = bytearray()
                async for chunk in response.content.iter_any():
                    content += chunk
                    if len(content) > _ANSWER_BYTES_MAX:
                        raise httpx2.ReadError("the answer is too long", request=request)
                return httpx2.Response(
                    response.status,
                    headers=list(response.headers.items()),
                    content=bytes(content),
                    request=request,
                )
        except aiohttp.ConnectionTimeoutError as error:
            raise httpx2.ConnectTimeout("no connection in time", request=request) from error
        except TimeoutError as error:
            raise httpx2.ReadTimeout("no answer in time", request=request) from error
        except aiohttp.ClientConnectorError as error:
            raise httpx2.ConnectError(type(error).__name__, request=request) from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx2.ReadError(type(error).__name__, request=request) from error
