"""Requests that no well-behaved client sends, byte by byte."""

import asyncio
from urllib.parse import urlsplit

from multidict import CIMultiDict, CIMultiDictProxy

from tests.client import Answer, Service


async def exchange(service: Service, *parts: bytes, seconds: float = 10) -> Answer:
    """Sends the bytes over a connection of its own and returns the answer, whatever it is."""
    address = urlsplit(service.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        async with asyncio.timeout(seconds):
            for part in parts:
                writer.write(part)
                await writer.drain()
            return await read_answer(reader)
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Reads one response with a Content-Length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, *lines = head.strip().split("\r\n")
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines:
        name, _, value = line.partition(":")
        headers.add(name, value.strip())
    body = await reader.readexactly(int(headers.get("Content-Length", "0")))
    return Answer(int(status_line.split()[1]), CIMultiDictProxy(headers), body)


def head(method: str, path: str, **headers: str) -> bytes:
    """Returns the head of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
