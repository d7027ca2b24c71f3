"""Paths and URLs as config values: credentials have no place in them, since they are shown and stored."""

import re
from typing import Annotated

from pydantic import AfterValidator

SIGNED = re.compile(r"[?&](x-(amz|goog)-(signature|credential|security-token)|sig|signature|token)=", re.I)


def without_credentials(url: str) -> str:
    """Return a path or URL that holds no user name with password, key or signature.

    Raises:
        ValueError: it does; the text does not repeat it.
    """
    protocol, mark, rest = url.partition("://")
    if not mark:
        return url
    host = rest.split("/", 1)[0]
    # an S3 secret may itself hold a slash, so that only a part of user:password@ stands before the first one
    has_user = re.search(r":[^/]*@", host) or (
        protocol in ("s3", "s3a") and re.search(r"[:@]", host) and not host.startswith("arn:")
    )
    if has_user or SIGNED.search(url):
        raise ValueError(
            f"must be a URL without credentials ({protocol}://... has some); put them into the section "
            "storage: key and secret for S3, options.PROTOCOL for others"
        )
    return url


def may_hold_credentials(text: str) -> bool:
    """Whether a text has anything that looks like a URL with credentials in it."""
    return re.search(r"://[^\s'\"]*@", text) is not None or SIGNED.search(text) is not None


def _is_given(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


Given = Annotated[str, AfterValidator(_is_given)]
Url = Annotated[Given, AfterValidator(without_credentials)]
