"""A body of multipart/form-data (RFC 7578) whose parts are text: what `curl -F` and some languages' clients send."""

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from aiopypay.errors import InvalidRequest
from aiopypay.parsers import shown

_ENCODINGS = ("", "7bit", "8bit", "binary")
_CHARSETS = ("utf-8", "utf8", "us-ascii")


def text_fields(body: bytes, content_type: str, fields_max: int) -> list[tuple[str, str]]:
    """Returns the names and texts of the parts. Of no body, none.

    Raises InvalidRequest for what is no such body, and naming the field for a part that is a file or no text.
    """
    if not body:
        return []
    _, options = parse_options_header(content_type)
    fields: list[tuple[str, str]] = []
    content = b""
    name = ""
    try:
        with PushMultipartParser(options.get("boundary", ""), max_segment_count=fields_max, strict=True) as parser:
            for event in parser.parse(body):
                if isinstance(event, MultipartSegment):
                    name, content = event.name, b""
                    _check(event)
                elif event is not None:
                    content += event
                else:
                    # Bad UTF-8 becomes lone surrogates, which the field's parser refuses under the field's name.
                    fields.append((name, content.decode("utf-8", "surrogateescape")))
    except MultipartError as error:
        raise InvalidRequest(f"The body is not valid multipart/form-data of at most {fields_max} fields") from error
    return fields


def _check(part: MultipartSegment) -> None:
    name = shown(part.name)
    if part.filename is not None:
        raise InvalidRequest(f"{name}: is a file, and must be text", field=name)
    if part.content_type not in (None, "text/plain") or (part.charset or "utf-8").lower() not in _CHARSETS:
        raise InvalidRequest(f"{name}: must be text in UTF-8", field=name)
    if part.header("Content-Transfer-Encoding", "").lower() not in _ENCODINGS:
        raise InvalidRequest(f"{name}: must not be encoded", field=name)
