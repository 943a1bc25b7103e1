"""Other sites and strangers are refused."""

import pytest
from support.web import Server

from spleeter_2.web.guard import is_loopback

TOKEN = "a-secret-of-the-tests"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server("--folder", tmp_path_factory.mktemp("web")) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    with Server("--folder", folder, "--host", "0.0.0.0", "--token", TOKEN) as server:
        yield server


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST", "[::1]:1"])
def test_our_own_names(server, host):
    assert server.ask("/api/songs", headers={"Host": host.format(port=server.port)}).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:80", "192.168.0.1", "", "[", "a@127.0.0.1x"]
)
def test_names_of_others(server, host):
    answer = server.ask("/api/songs", headers={"Host": host})
    assert answer.status in (400, 403)


def test_pages_of_others(server):
    own = f"http://127.0.0.1:{server.port}"
    for origin, status in (
        (own, 400),  # an empty upload
        ("http://evil.example", 403),
        ("null", 403),
        (f"http://127.0.0.1:{server.port + 1}", 403),
    ):
        assert server.ask("/api/songs", "POST", b"", {"Origin": origin}).status == status, origin
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 400)):
        answer = server.ask("/api/songs", "POST", b"", {"Sec-Fetch-Site": site})
        assert answer.status == status, site


def test_headers_of_all_answers(server):
    for path in ("/", "/static/page.js", "/api/models", "/nothing"):
        headers = server.ask(path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_nothing_without_the_token(guarded):
    for path in ("/", "/static/page.js", "/?token=wrong", f"/api/songs?token={TOKEN}"):
        answer = guarded.ask(path)
        assert answer.status == 401 and "needs its token" in answer.error, path
    for headers in (
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": "spleeter_token=wrong"},
        {"Cookie": "spleeter_token=\xff;;;="},
        {"Authorization": "Bearer \xe9"},
    ):
        assert guarded.ask("/api/songs", headers=headers).status == 401


def test_the_token_in_every_place(guarded):
    assert f"?token={TOKEN}" in guarded.address
    answer = guarded.ask(f"/?token={TOKEN}")
    assert answer.status == 303 and answer.headers["Location"] == "./"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert guarded.ask("/", headers={"Cookie": cookie.split(";")[0]}).status == 200
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert guarded.ask("/api/songs", headers=headers).status == 200
    for host, status in (("192.168.0.1:80", 200), ("evil.example", 403)):
        assert guarded.ask("/api/songs", headers={**headers, "Host": host}).status == status


def test_addresses_of_this_machine_only():
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "example.org", "")))
