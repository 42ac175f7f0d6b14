"""A server's URL is read, or refused in words where it is given."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ors_gym.client.client import ORSClient
from ors_gym.http.url import ServerURL


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://h:99999", "port"),
        ("http://h:abc", "port"),
        ("http://h:0", "port"),
        ("http://h ", "blanks"),
        ("http://h\n", "blanks"),
        ("http://h/?x=1", "query"),
        ("http://h/#f", "fragment"),
        ("http://::1:80", "brackets"),
        ("http://[::1", "brackets"),
        ("http://a..b", "host name"),
        (f"http://{'x' * 64}.com", "host name"),
        ("localhost:8080", "http://"),
        ("ftp://h", "http://"),
        ("http://", "http://"),
        ("", "http://"),
        (5, "text"),
        (b"http://h", "text"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url, reason):
    with pytest.raises(ValueError, match=reason):
        ORSClient(url)


@pytest.mark.parametrize(
    "url", ["http://u:se/cret@h:abc", "http://u:secret@h:0", "http://u:secret@ h", "ftp://u:secret@h"]
)
def test_a_refusal_shows_no_password(url):
    with pytest.raises(ValueError, match=r".") as caught:
        ORSClient(url)
    assert "cret" not in str(caught.value)


def test_what_can_be_read_is_read():
    assert ServerURL.parse("http://[::1]:8080").text == "http://[::1]:8080"
    assert ServerURL.parse("https://u:p%40@h/päth/a%20b/") == ServerURL("https://h/p%C3%A4th/a%20b/", "u", "p@")
    assert ServerURL.parse("http://bücher.example:1").text == "http://bücher.example:1"


@given(st.text(max_size=30).map(lambda rest: f"http://{rest}") | st.text(max_size=30))
def test_any_text_is_a_url_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        ORSClient(text)
