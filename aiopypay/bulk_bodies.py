"""@bulk_data: the body of a bulk, JSON or CSV, becomes a `Bulk`; a transfer in it that is malformed spoils no other."""

import csv
import io
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

from aiohttp import web

from aiopypay.answers import CSV, JSON, about, add_traits
from aiopypay.errors import InvalidRequest
from aiopypay.forms import (
    BODY_PROBLEMS,
    BYTE_ORDER_MARK,
    body_text,
    build,
    fields_of,
    form_field,
    is_unsent,
    json_pairs,
    list_field,
    members,
)
from aiopypay.parsers import shown, takes
from aiopypay.slices import SLICES, Slices
from aiopypay.transfer_orders import BulkTransferForm
from aiopypay.units import UNIT_SIZE_MAX

BODY_BYTES_MAX = 256 * 1024
OPTIONAL = {"comment", "key"}

Mode = Literal["each", "all"]


@takes({"type": "string", "enum": ["each", "all"]})
def parse_mode(text: str) -> Mode:
    """`each` books what can be booked, `all` everything or nothing."""
    if text == "each":
        return "each"
    if text == "all":
        return "all"
    raise ValueError("must be each or all")


@about("Many payments.")
@dataclass(frozen=True, slots=True)
class BulkForm:
    """Up to 1000 transfers: `each` books what can be booked, `all` everything or nothing."""

    mode: Mode = form_field("mode", parse_mode, "`each` books what can be booked, `all` everything or nothing.")
    transfers: list[Any] = list_field("transfers", BulkTransferForm, "The payments.", items_max=UNIT_SIZE_MAX)


@dataclass(frozen=True, slots=True)
class BulkQuery:
    """With CSV, `each` books what can be booked, `all` everything or nothing. In JSON it is a member of the body."""

    mode: Mode | None = form_field(
        "mode",
        parse_mode,
        "With CSV: `each` books what can be booked, `all` everything or nothing. In JSON it is a member of the body.",
        default=None,
    )


@dataclass(frozen=True, slots=True)
class Bulk:
    """What was asked for: transfers, and in place of each that is malformed its problem.

    `lines` are those of a CSV on which each transfer begins; JSON has none. `text` is the body as it was sent.

    `contents` is what the request's key stands for: a transfer, or None for what is known by its text alone. That is
    what is malformed, and what was when the key may first have been used. `places` says where the transfers are in it:
    from its place an order without a key of its own has its id.
    """

    mode: Mode
    transfers: Sequence[BulkTransferForm | InvalidRequest]
    text: str
    contents: Sequence[BulkTransferForm | None]
    places: Sequence[int]
    lines: Sequence[int] = ()

    def has_key(self, key: str) -> bool:
        """Tells whether a transfer has this key as its own."""
        return any(form.key == key for form in self.transfers if not isinstance(form, InvalidRequest))


Pairs = Sequence[tuple[str, Any]]
Handler = Callable[..., Awaitable[web.StreamResponse]]


def bulk_data(handler: Handler) -> Handler:
    """Passes the body, as a `Bulk`, to the handler, in place of the `BulkQuery` that is its last argument.

    The first is the user, of whose bulks only some are worked on at once. Raises InvalidRequest naming the field, or in
    CSV the line; UnsupportedMediaType, PayloadTooLarge, RequestTimeout, Overloaded.
    """

    @wraps(handler)
    async def read_bulk(request: web.Request, *args: Any) -> web.StreamResponse:
        user, query = args
        slices = request.app[SLICES]
        async with slices.place(user.id):
            # All of it is here by now (`auth.py`): of those that wait for a place there is no second copy.
            text = await body_text(request, BODY_BYTES_MAX, (JSON, CSV))
            read = _from_csv if request.content_type == CSV else _from_json
            return await handler(request, user, await read(text, query.mode, slices))

    return add_traits(
        read_bulk, body=BulkForm, body_types=(JSON, CSV), body_bytes_max=BODY_BYTES_MAX, problems=BODY_PROBLEMS
    )


async def _from_json(text: str, mode: Mode | None, slices: Slices) -> Bulk:
    if mode is not None:
        raise InvalidRequest("mode: belongs into the JSON body, not into the query", field="mode")
    form = await slices.do(lambda: build(BulkForm, json_pairs(text)))
    read = await slices.map(lambda raw: _transfer_and_content(form.mode, raw), form.transfers)
    transfers, contents = [transfer for transfer, _ in read], [content for _, content in read]
    return Bulk(form.mode, transfers, text, contents, range(len(transfers)))


def _transfer_and_content(mode: Mode, raw: Any) -> tuple[BulkTransferForm | InvalidRequest, BulkTransferForm | None]:
    transfer = _transfer(raw)
    if isinstance(transfer, InvalidRequest) or (mode == "each" and _has_unsent(members(raw))):
        return transfer, None
    return transfer, transfer


def _transfer(raw: Any) -> BulkTransferForm | InvalidRequest:
    try:
        return build(BulkTransferForm, members(raw))
    except InvalidRequest as problem:
        return problem


def _has_unsent(pairs: Pairs) -> bool:
    """Tells whether a field came without a value, which made a transfer malformed once."""
    fields = fields_of(BulkTransferForm)
    return any(not raw and is_unsent(fields[name], raw) for name, raw in pairs)


async def _from_csv(text: str, mode: Mode | None, slices: Slices) -> Bulk:
    if mode is None:
        raise InvalidRequest("mode: is missing in the query", field="mode")
    columns, table = await slices.do(lambda: _table(text.removeprefix(BYTE_ORDER_MARK)))
    rows = await slices.map(lambda row: _row(columns, row[1]) if any(row[1]) else None, table)
    transfers = [row for row in rows if row is not None]
    # Empty rows were malformed transfers once, where such were taken, and have their places still.
    counted = rows if mode == "each" and len(rows) <= UNIT_SIZE_MAX else transfers
    contents = [None if isinstance(row, InvalidRequest) else row for row in counted]
    places = [place for place, row in enumerate(counted) if row is not None]
    return Bulk(mode, transfers, text, contents, places, [line for line, cells in table if any(cells)])


def _table(text: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Returns the names of the columns, and the rows below, each with its line; some may be empty."""
    records = _records(text)
    first, columns = next(((line, cells) for line, cells in records if any(cells)), (1, []))
    _check_columns(first, columns)
    rows: list[tuple[int, list[str]]] = []
    transfers = 0
    for line, cells in records:
        transfers += any(cells)
        if transfers > UNIT_SIZE_MAX:
            raise InvalidRequest(f"line {line}: there are more than {UNIT_SIZE_MAX} transfers")
        rows.append((line, cells))
    if not transfers:
        raise InvalidRequest(f"line {first + 1}: there is no transfer below the names of the columns")
    return columns, rows


def _records(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the records of a CSV (RFC 4180), each with the number of the line on which it begins; no empty lines.

    A record may be of empty cells only: so spreadsheets write an empty row.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise InvalidRequest(f"line {line}: is not CSV ({error})") from None


def _check_columns(line: int, names: Sequence[str]) -> None:
    fields = fields_of(BulkTransferForm)
    for number, name in enumerate(names, 1):
        if not name.strip():
            raise InvalidRequest(f"line {line}: column {number}: has no heading", field=f"column {number}")
        if name not in fields:
            told = f"line {line}: {shown(name)}: is not a column of a bulk, which are {', '.join(fields)}"
            raise InvalidRequest(told, field=shown(name))
        if names.count(name) > 1:
            raise InvalidRequest(f"line {line}: {name}: is repeated", field=name)
    for name in fields:
        if name not in names and name not in OPTIONAL:
            raise InvalidRequest(f"line {line}: {name}: is missing", field=name)


def _row(columns: Sequence[str], cells: list[str]) -> BulkTransferForm | InvalidRequest:
    """An empty cell is a field that is not sent, where it need not be."""
    if len(cells) != len(columns):
        return InvalidRequest(f"there are {len(cells)} cells below {len(columns)} columns")
    try:
        pairs = [(name, cell) for name, cell in zip(columns, cells, strict=True) if cell or name not in OPTIONAL]
        return build(BulkTransferForm, pairs)
    except InvalidRequest as problem:
        return problem
