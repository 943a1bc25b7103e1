"""Refuse requests of other sites and strangers, and add headers of security to all responses.

A page of another site can send requests to 127.0.0.1. It cannot read the answers unless its name is
made to point here (DNS rebinding), which the header Host shows. Whose page sends a request that
changes something is in the headers Origin and Sec-Fetch-Site.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .responses import Refusal

COOKIE = "spleeter_token"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(host: str) -> bool:
    """True for an address that only this machine reaches."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_names(host: str) -> frozenset[str]:
    """Names under which a server at ``host`` may be asked for, apart from addresses."""
    names = {host.lower(), *LOOPBACK}
    if not is_loopback(host):
        name = socket.gethostname().lower()
        names |= {name, f"{name}.local", socket.getfqdn().lower()}
    return frozenset(names)


class Guard:
    """ASGI middleware.

    Args:
        application: that is protected.
        host: that the server listens on.
        token: needed for every request, or None.
    """

    def __init__(self, application: ASGIApp, host: str, token: str | None) -> None:
        self._application, self._token = application, token
        self._names = host_names(host)
        self._takes_addresses = not is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                message["headers"] = headers.raw
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        application = self._application
        try:
            self._check_site(Headers(scope=scope), scope["method"])
            if self._token is not None:
                application = self._check_token(scope)
        except Refusal as refusal:
            application = refusal.response()
        await application(scope, receive, send_with_headers)

    def _check_site(self, headers: Headers, method: str) -> None:
        """Raise Refusal for a request in another server's name, or one that another site sends."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise Refusal(403, f"this server is not {host or 'without a name'}: use its address")
        origin = headers.get("origin")
        is_foreign = origin is not None and origin.lower().partition("://")[2] != host.lower()
        site = headers.get("sec-fetch-site", "none")
        if is_foreign or (method not in ("GET", "HEAD") and site not in ("none", "same-origin")):
            raise Refusal(403, "this request comes from another site, and none is accepted")

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        if not self._takes_addresses:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _check_token(self, scope: Scope) -> ASGIApp:
        """The application, or a redirection that keeps the token of an address in a cookie."""
        headers = Headers(scope=scope)
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if scope["path"] == "/" and self._is_right(query.get("token", [])):
            response = RedirectResponse("./", 303)
            response.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
            return response
        scheme, _, given = headers.get("authorization", "").partition(" ")
        tokens = [given] if scheme.lower() == "bearer" else []
        cookies = SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except CookieError:
            pass
        if COOKIE in cookies:
            tokens.append(cookies[COOKIE].value)
        if not self._is_right(tokens):
            raise Refusal(
                401,
                "this server needs its token: open the address that 'spleeter web' printed, or "
                "send the header 'Authorization: Bearer TOKEN'",
                {"WWW-Authenticate": "Bearer"},
            )
        return self._application

    def _is_right(self, tokens: Iterable[str]) -> bool:
        expected = self._token.encode()
        return any([hmac.compare_digest(token.encode(), expected) for token in tokens])
