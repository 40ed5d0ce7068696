"""The page: built once for each browser, then changed only where what it shows has changed.

A browser subscribes after it has connected and leaves when NiceGUI deletes its client, so that a page that was only fetched,
or closed, leaves nothing behind.
"""

import asyncio

import structlog
from fastapi import FastAPI
from nicegui import Client, background_tasks, core, ui

from fleet.monitoring import render
from fleet.monitoring.hub import Hub, Subscription
from fleet.monitoring.style import CSS
from fleet.monitoring.views import Json, Views

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 0.25
"""Between two updates of one browser: at most four a second."""
TICK_SECONDS = 1.0
"""Ages count up this often, also where nothing else happens."""
CONNECT_SECONDS = 20.0


def install(app: FastAPI, views: Views, hub: Hub) -> None:
    """Puts the page on the application at `/`. Once a process: NiceGUI keeps its own state."""
    core.sio.eio.cors_allowed_origins = None  # this page's own origin only; NiceGUI would let any site connect

    @ui.page("/", title="SWE AI Fleet", dark=None, reconnect_timeout=5)
    async def index(client: Client) -> None:
        ui.add_css(CSS)
        page = _Page(views)
        page.update(None)
        try:
            await client.connected(timeout=CONNECT_SECONDS)
        except TimeoutError:
            return  # fetched by something that is no browser
        if client.is_deleted:
            return
        subscription = hub.subscribe()
        client.on_delete(subscription.close)
        background_tasks.create(_live(client, page, subscription), name=f"live page {client.id}")

    ui.run_with(app, title="SWE AI Fleet", tailwind=False, show_welcome_message=False, reconnect_timeout=5)


async def _live(client: Client, page: "_Page", subscription: Subscription) -> None:
    """Updates one browser until it is gone."""
    missed = False
    try:
        while not subscription.closed and not client.is_deleted:
            await subscription.wait(TICK_SECONDS)
            changes, lost = subscription.drain()
            if not client.has_socket_connection:
                missed = missed or lost or bool(changes)
            elif not client.is_deleted:
                touched = {key for change in changes for key in change.deliberations}
                with client:
                    page.update(None if lost or missed else touched)
                missed = False
            await asyncio.sleep(PAUSE_SECONDS)
    finally:
        subscription.close()


class _Section:
    """A piece of HTML that is sent only where it has changed. The browser cleans it too, as a second fence."""

    def __init__(self, parent: ui.element) -> None:
        with parent:
            self._html = ui.html("", sanitize=True)

    def show(self, text: str) -> None:
        if self._html.content != text:
            self._html.set_content(text)


class _Page:
    """One browser's elements."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._cards: list[_Section] = []
        self._order: list[str] = []
        self._words = ""
        self._top = _Section(ui.element("div").classes("top"))
        with ui.element("div").classes("grid"):
            with ui.element("div").classes("column"):
                self._services = _panel("Services")
                self._infrastructure = _panel("Infrastructure")
                self._councils = _panel("Councils")
                self._jobs = _panel("Active jobs")
                self._cluster = _panel("Ray cluster")
            with ui.element("div").classes("column"):
                with ui.element("div").classes("panel"):
                    self._summary = _Section(ui.element("div"))
                    self._list = ui.element("div")
                with ui.element("div").classes("panel"):
                    ui.html("<h2>Events</h2>", sanitize=True)
                    box = ui.input(placeholder="filter: words of subject, text or id", on_change=self._filter)
                    box.props("dense clearable debounce=300").classes("filter")
                    self._events = _Section(ui.element("div"))

    def update(self, touched: set[str] | None) -> None:
        """Shows what is. `touched` names the deliberations that may have changed; None means all."""
        views = self._views
        status = views.status()
        self._services.show(render.parts(status["services"]))
        self._infrastructure.show(render.parts(status["infrastructure"]))
        self._councils.show(render.councils(views.data("councils")))
        self._jobs.show(render.jobs(views.data("jobs")))
        self._cluster.show(render.cluster(views.data("cluster")))
        feed = views.feed()
        self._top.show(f"<b>SWE AI Fleet</b> {render.live(feed)}")
        self._show_deliberations(touched)
        self._show_events()

    def _show_deliberations(self, touched: set[str] | None) -> None:
        shown, known = self._views.newest(render.RUNNING_SHOWN, render.ENDED_SHOWN)
        self._summary.show(render.heading(len(shown), known, self._views.feed()))
        order = [one["deliberation_id"] for one in shown]
        if order != self._order:
            touched = None
            self._order = order
        while len(self._cards) < len(order):
            self._cards.append(_Section(self._list))
        for card, one in zip(self._cards, shown, strict=False):
            if touched is None or one["deliberation_id"] in touched:
                card.show(render.deliberation(one))
        for card in self._cards[len(order) :]:
            card.show("")

    def _show_events(self) -> None:
        # A filter looks at all that is kept.
        lines: list[Json] = self._views.events(1000 if self._words else render.EVENTS_SHOWN)["events"]
        found = [line for line in lines if render.matches(line, self._words)][: render.EVENTS_SHOWN]
        self._events.show(render.events(found))

    def _filter(self, event: object) -> None:
        self._words = str(getattr(event, "value", None) or "")[:200]
        self._show_events()


def _panel(title: str) -> _Section:
    box = ui.element("div").classes("panel")
    with box:
        ui.html(f"<h2>{title}</h2>", sanitize=True)
    return _Section(box)
