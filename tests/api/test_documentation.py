"""GET /: where one looks first."""

import pytest

from tests.client import Service

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accepted", "page"),
    [
        (BROWSER, "/docs"),
        ("application/json, TEXT/HTML;q=0.5", "/docs"),
        ("*/*", "/openapi.json"),
        ("application/json", "/openapi.json"),
        ("text/html;q=0", "/openapi.json"),
        ("text/html; q=0.000, */*", "/openapi.json"),
        ("text/*", "/openapi.json"),
        ("", "/openapi.json"),
    ],
)
async def test_it_leads_browsers_to_the_page_and_others_to_the_document(
    shared_service: Service, accepted: str, page: str
) -> None:
    headers = {"Accept": accepted}
    async with shared_service.session.get(f"{shared_service.base_url}/", headers=headers, allow_redirects=False) as led:
        assert led.status == 302
        assert led.headers["Location"] == page
        assert led.headers["Vary"] == "Accept"
    led_to = await shared_service.get("/", headers=headers)
    assert led_to.status == 200
    assert led_to.media_type == ("text/html" if page == "/docs" else "application/json")
