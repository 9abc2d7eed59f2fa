"""Bare aiohttp: parses the same form and answers JSON of the same size, without a database, a check or a log.

Run as `python -m bench.bare PORT FILE`; the file holds a receipt and an account, as the service answered them.
"""

import json
import sys
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web

from aiopypay.http_protocol import KEEPALIVE_SECONDS

# Without spaces, as the service writes it.
dumps = json.JSONEncoder(separators=(",", ":")).encode


def application(receipt: dict[str, Any], account: dict[str, Any]) -> web.Application:
    """The two handlers."""

    async def post(request: web.Request) -> web.Response:
        form = await request.post()
        assert form["from"]
        assert form["to"]
        assert form["amount"]
        return web.json_response(receipt, dumps=dumps)

    async def get(_request: web.Request) -> web.Response:
        return web.json_response(account, dumps=dumps)

    app = web.Application()
    app.router.add_post("/users/{user_id:[0-9]+}/transfers", post)
    app.router.add_get("/accounts/{account_id:[0-9]+}", get)
    return app


def main() -> None:
    """Serves until SIGINT or SIGTERM."""
    answers = json.loads(Path(sys.argv[2]).read_text())
    web.run_app(
        application(answers["receipt"], answers["account"]),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        print=None,
        access_log=None,
        backlog=1024,
        keepalive_timeout=KEEPALIVE_SECONDS,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main()
