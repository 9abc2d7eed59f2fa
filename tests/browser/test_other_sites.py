"""Pages of other sites, in a browser that keeps the user's password: they pay nobody."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from aiohttp import web
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

from aiopypay.settings import Settings
from tests.client import Caller, Service
from tests.conftest import StartService, with_credit

PATIENCE_SECONDS = 20
ENCODINGS = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")

# A form of the page's own, sent by its script, as by a click.
SUBMIT = """
    const [action, encoding, fields] = arguments;
    const form = document.createElement("form");
    Object.assign(form, {method: "POST", action, enctype: encoding});
    for (const [name, value] of Object.entries(fields)) {
        form.append(Object.assign(document.createElement("input"), {type: "hidden", name, value}));
    }
    document.body.append(form);
    form.submit();
"""
# What came back, or why nothing did.
FETCH = """
    const [url, options, done] = arguments;
    fetch(url, options).then(
        async (answer) => done({
            status: answer.status,
            text: await answer.text(),
            headers: Object.fromEntries(answer.headers),
        }),
        (error) => done({status: 0, text: String(error), headers: {}}),
    );
"""

Document = dict[str, Any]


class Browser:
    """A browser whose user has logged in at the service."""

    def __init__(self, chromium: webdriver.Chrome, caller: Caller, service_url: str) -> None:
        self._chromium = chromium
        self.service_url = service_url
        self._methods: dict[str, str] = {}
        password = f"{quote(caller.username)}:{quote(caller.password)}@"
        # Under the address of the payments, so that the password is sent there unasked.
        chromium.get(f"{service_url.replace('://', '://' + password)}/users/{caller.id}/accounts")
        assert '"currency_id"' in chromium.page_source
        self.statuses()

    def submit(self, page: str, path: str, encoding: str, fields: Document) -> int:
        """Posts a form of the page to the service and returns the status of the answer."""
        self._chromium.get(page)
        self.statuses()
        texts = {name: str(value) for name, value in fields.items()}
        self._chromium.execute_script(SUBMIT, self.service_url + path, encoding, texts)
        wait = WebDriverWait(self._chromium, PATIENCE_SECONDS)
        return int(wait.until(lambda _: self.statuses().get(f"POST {path}")) or 0)

    def fetch(self, page: str, path: str, **options: Any) -> Document:
        """Lets the page fetch from the service, and returns what its script sees."""
        if self._chromium.current_url != page:
            self._chromium.get(page)
        answer: Document = self._chromium.execute_async_script(FETCH, self.service_url + path, options)
        return answer

    def statuses(self) -> dict[str, int]:
        """The status of each answer of the service since this was last asked, by method and path."""
        statuses = {}
        for entry in self._chromium.get_log("performance"):  # type: ignore[no-untyped-call]
            message = json.loads(entry["message"])["message"]
            said = message["params"]
            if message["method"] == "Network.requestWillBeSent":
                self._methods[said["requestId"]] = said["request"]["method"]
            elif message["method"] == "Network.responseReceived" and said["requestId"] in self._methods:
                answer = said["response"]
                statuses[f"{self._methods[said['requestId']]} {urlsplit(answer['url']).path}"] = answer["status"]
        return statuses


@asynccontextmanager
async def pages() -> AsyncIterator[int]:
    """A site of somebody else's on this machine, an empty page; its port."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<!DOCTYPE html><title>Kittens</title><body>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture
async def site() -> AsyncIterator[int]:
    """The port of another site."""
    async with pages() as port:
        yield port


@pytest.fixture
async def listed_site() -> AsyncIterator[int]:
    """The port of another site that the operator has listed."""
    async with pages() as port:
        yield port


@pytest.fixture
async def service(start_service: StartService, settings: Settings, listed_site: int) -> Service:
    """A service that gives each new user 100 dollars and lists one origin."""
    listing = replace(with_credit(settings, USD="100"), cors_origins=(f"http://127.0.0.1:{listed_site}",))
    return await start_service(listing)


@pytest.fixture
async def alice(service: Service) -> Caller:
    return await service.register("alice")


@pytest.fixture
async def transfer(service: Service, alice: Caller) -> Document:
    """What takes ten dollars from Alice."""
    mallory = await service.register("mallory")
    return {"from": alice.accounts["USD"], "to": mallory.accounts["USD"], "amount": "10"}


@pytest.fixture
def service_urls(service: Service) -> list[str]:
    """The service by its address, and by a name without TLS, where browsers send no Sec-Fetch-Site."""
    port = urlsplit(service.base_url).port
    return [f"http://{host}:{port}" for host in ("127.0.0.1", "pay.example")]


def requests(alice: Caller, token: str, transfer: Document) -> Iterator[Document]:
    """What a page's script may try."""
    form = "&".join(f"{name}={value}" for name, value in transfer.items())
    for mode in ("cors", "no-cors"):
        for credentials in ("include", "omit"):
            for media_type in ("application/x-www-form-urlencoded", "text/plain"):
                options = {"method": "POST", "body": form, "mode": mode, "credentials": credentials}
                yield options | {"headers": {"Content-Type": media_type}}
    for authorization in (token, alice.authorization):
        headers = {"Content-Type": "application/json", "Authorization": authorization}
        yield {"method": "POST", "body": json.dumps(transfer), "headers": headers}


async def test_another_sites_forms_pay_nothing(
    chromium: webdriver.Chrome, service_urls: list[str], site: int, alice: Caller, transfer: Document
) -> None:
    page = f"http://127.0.0.1:{site}/"

    def statuses() -> list[int]:
        found: list[int] = []
        for service_url in service_urls:
            browser = Browser(chromium, alice, service_url)
            for path, fields in ((f"/users/{alice.id}/transfers", transfer), (f"/users/{alice.id}/accounts/USD", {})):
                found += [browser.submit(page, path, encoding, fields) for encoding in ENCODINGS]
        return found

    assert await asyncio.to_thread(statuses) == [403] * 12
    assert await alice.balance() == Decimal(100)
    assert len(await alice.list_accounts()) == len(alice.accounts)


async def test_the_services_own_pages_may(
    chromium: webdriver.Chrome, service_urls: list[str], alice: Caller, transfer: Document
) -> None:
    path = f"/users/{alice.id}/transfers"

    def statuses() -> list[int]:
        found = []
        for service_url in service_urls:
            browser = Browser(chromium, alice, service_url)
            page = f"{service_url}/currencies"
            found.append(browser.submit(page, path, ENCODINGS[0], transfer))
            headers = {"Content-Type": "application/json"}
            fetched = browser.fetch(page, path, method="POST", body=json.dumps(transfer), headers=headers)
            found.append(fetched["status"])
        return found

    assert await asyncio.to_thread(statuses) == [200] * 4
    assert await alice.balance() == Decimal("59.60")


async def test_another_sites_scripts_pay_nothing_and_see_nothing(
    chromium: webdriver.Chrome, service_urls: list[str], site: int, alice: Caller, transfer: Document
) -> None:
    token = await alice.token()
    page = f"http://127.0.0.1:{site}/"

    def seen() -> list[tuple[int, str]]:
        found: list[Document] = []
        for service_url in service_urls:
            browser = Browser(chromium, alice, service_url)
            path = f"/users/{alice.id}/transfers"
            found += [browser.fetch(page, path, **options) for options in requests(alice, token, transfer)]
            found.append(browser.fetch(page, f"/users/{alice.id}/accounts", credentials="include"))
        return [(answer["status"], answer["text"].replace("TypeError: Failed to fetch", "")) for answer in found]

    assert set(await asyncio.to_thread(seen)) == {(0, "")}
    assert await alice.balance() == Decimal(100)


async def test_a_listed_origins_script_pays_with_a_token_and_reads_the_answers(
    chromium: webdriver.Chrome, service_urls: list[str], listed_site: int, alice: Caller, transfer: Document
) -> None:
    page, path = f"http://127.0.0.1:{listed_site}/", f"/users/{alice.id}/transfers"
    headers = {"Content-Type": "application/json", "Authorization": await alice.token(), "Idempotency-Key": "rent-1"}

    def told(service_url: str) -> list[Document]:
        browser = Browser(chromium, alice, service_url)
        wishes = headers | {"Prefer": "money=string", "X-Request-ID": "of-the-page"}
        paid = browser.fetch(page, path, method="POST", body=json.dumps(transfer), headers=wishes)
        much = json.dumps(transfer | {"amount": "1000"})
        refused = browser.fetch(page, path, method="POST", body=much, headers=headers | {"Idempotency-Key": "rent-2"})
        nowhere = browser.fetch(page, "/nowhere", method="DELETE", headers=headers)
        anonymous = browser.fetch(page, path, credentials="omit")
        listed = browser.fetch(page, f"{path}?limit=1", headers=headers)
        return [paid, refused, nowhere, anonymous, listed]

    for service_url in service_urls:
        paid, refused, nowhere, anonymous, listed = await asyncio.to_thread(told, service_url)
        assert json.loads(paid["text"])["balance"] == "89.90"
        assert paid["headers"]["location"].startswith(f"/users/{alice.id}/orders/")
        assert paid["headers"]["preference-applied"] == "money=string"
        assert paid["headers"]["x-request-id"] == "of-the-page"
        assert (refused["status"], json.loads(refused["text"])["type"]) == (402, "/problems/insufficient-funds")
        assert nowhere["status"] == 404
        assert (anonymous["status"], anonymous["headers"]["www-authenticate"][:5]) == (401, "Basic")
        assert listed["headers"]["link"].startswith(f"<{service_url}{path}?")
    assert await alice.balance() == Decimal("89.90")
