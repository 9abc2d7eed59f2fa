"""Swagger UI, as a person uses it: "Authorize" with user and password, then "Try it out"."""

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import element_to_be_clickable
from selenium.webdriver.support.wait import WebDriverWait

from tests import ledger
from tests.client import Caller, Service

PATIENCE_SECONDS = 20

Document = dict[str, Any]


def a_transfer(alice: Caller, bob: Caller) -> Document:
    """The members of a transfer that both are in."""
    return {"from": alice.accounts["USD"], "to": bob.accounts["USD"], "amount": "10.50", "comment": "Lunch"}


def a_deposit(alice: Caller, _: Caller) -> Document:
    """The members of a deposit to the first."""
    return {"user_id": alice.id, "value": "420.69"}


# How to authorize, operation, its body, the status to see, and the dollars of the payer afterwards (of 100).
TRIALS = [
    ("basic", "transfers", "post_transfer", a_transfer, 200, Decimal("89.39")),
    ("token", "balances", "post_balance", a_deposit, 201, Decimal("520.69")),
]


def log(chromium: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    """What the browser has noted since it was last asked."""
    entries: list[dict[str, Any]] = chromium.get_log(kind)  # type: ignore[no-untyped-call]
    return entries


class Page:
    """The page as seen by its reader."""

    def __init__(self, chromium: webdriver.Chrome, base_url: str) -> None:
        self._chromium = chromium
        self._wait = WebDriverWait(chromium, PATIENCE_SECONDS)
        chromium.get(f"{base_url}/docs")

    def find(self, selector: str) -> WebElement:
        """Waits until the element can be used."""
        return self._wait.until(element_to_be_clickable((By.CSS_SELECTOR, selector)))

    def click(self, selector: str) -> None:
        """Clicks an element, scrolled to where no other covers it."""
        element = self.find(selector)
        self._chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def write(self, selector: str, text: str) -> None:
        """Replaces what is in a field."""
        self.find(selector).send_keys(Keys.CONTROL, "a")
        self.find(selector).send_keys(text)

    def offers(self, scheme: str) -> bool:
        """Whether the document knows the security scheme: `basic` or `token`."""
        schemes = (
            'return fetch("openapi.json").then(r => r.json()).then(d => Object.keys(d.components.securitySchemes))'
        )
        return scheme in self._chromium.execute_script(schemes)

    def authorize(self, scheme: str, username: str, password: str) -> None:
        """Fills in the dialog, and sees that it took what was filled in."""
        user, secret, send = {
            "basic": ("#auth-basic-username", "#auth-basic-password", "//form[.//input[@id='auth-basic-username']]"),
            "token": (
                "#oauth_username",
                "#oauth_password",
                "//div[@class='auth-container'][.//*[@id='oauth_username']]",
            ),
        }[scheme]
        self.click(".auth-wrapper .authorize")
        self.write(user, username)
        self.write(secret, password)
        self._wait.until(element_to_be_clickable((By.XPATH, f"{send}//button[text()='Authorize']"))).click()
        self._wait.until(element_to_be_clickable((By.XPATH, "//div[@class='dialog-ux']//button[text()='Logout']")))
        self.click(".auth-btn-wrapper .btn-done")

    def try_out(self, tag: str, operation: str, user_id: int, body: Document) -> int:
        """Sends the operation and returns the status that the page shows."""
        block = f"#operations-{tag}-{operation}"
        self.click(f"{block} .opblock-summary-control")
        self.click(f"{block} .try-out__btn")
        if self._chromium.find_elements(By.CSS_SELECTOR, f"{block} tr[data-param-name=user_id] input"):
            self.write(f"{block} tr[data-param-name=user_id] input", str(user_id))
        self.write(f"{block} .body-param__text", json.dumps(body))
        self.click(f"{block} .execute")
        return int(self.find(f"{block} .live-responses-table tbody .response-col_status").text.split()[0])

    def complaints(self) -> list[str]:
        """What the console has to say: errors, and what the Content-Security-Policy has refused."""
        return [entry["message"] for entry in log(self._chromium, "browser") if entry["level"] in ("WARNING", "SEVERE")]

    def hosts_asked(self) -> set[str]:
        """The hosts that the page has asked for anything."""
        messages = [json.loads(entry["message"])["message"] for entry in log(self._chromium, "performance")]
        urls = [
            urlsplit(message["params"]["request"]["url"])
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
        return {url.netloc for url in urls if url.scheme in ("http", "https")}


@pytest.mark.parametrize(("scheme", "tag", "operation", "body", "status", "left"), TRIALS)
async def test_a_person_authorizes_and_tries_it_out(
    service: Service,
    chromium: webdriver.Chrome,
    tmp_path: Path,
    scheme: str,
    tag: str,
    operation: str,
    body: Callable[[Caller, Caller], Document],
    status: int,
    left: Decimal,
) -> None:
    alice, bob = await service.register(), await service.register()
    ledger.deposit(service.database_url, alice.accounts["USD"], "100")

    def use() -> tuple[int, list[str], set[str]]:
        page = Page(chromium, service.base_url)
        if not page.offers(scheme):
            pytest.skip(f"the document has no security scheme {scheme}")
        page.authorize(scheme, alice.username, alice.password)
        seen = page.try_out(tag, operation, alice.id, body(alice, bob))
        chromium.save_screenshot(str(tmp_path / f"{operation}-{scheme}.png"))
        return seen, page.complaints(), page.hosts_asked()

    seen, complaints, hosts = await asyncio.to_thread(use)
    assert complaints == []
    assert seen == status
    assert hosts == {urlsplit(service.base_url).netloc}
    assert await alice.balance() == left


async def test_nothing_else_may_load(service: Service, chromium: webdriver.Chrome) -> None:
    def refused() -> list[str]:
        chromium.get(f"{service.base_url}/docs")
        chromium.execute_script("""
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
            const image = document.createElement("img");
            image.src = "http://127.0.0.2:9/pixel.png";
            document.body.append(image);
        """)
        assert chromium.execute_script("return window.ran") is None
        return [entry["message"] for entry in log(chromium, "browser") if entry["source"] == "security"]

    assert len(await asyncio.to_thread(refused)) == 2
