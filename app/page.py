"""The page in the browser: gradio's parts for what is typed and chosen, our own markup for photos and results."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from .answers import FilterField
from .page_asking import filter_lists
from .page_events import PageEvents
from .page_parts import RESULTS, PageParts
from .page_session import PageSession
from .page_views import HERE, LAWFUL_USE, photo_shown, results_shown, searches_shown, view
from .questions import MOST_CHARACTERS
from .service import SearchService

_FILES = "/page-files"  # where a browser gets static/
_SCRIPT = f'<script src="{_FILES}/page.js"></script>'
# The script is loaded before there is anything to click; the style sheet as it is: gradio rewrites that of css_paths.
_HEAD = f'<link rel="preload" as="script" href="{_FILES}/page.js"><link rel="stylesheet" href="{_FILES}/page.css">'
_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"]  # nothing is fetched
_MOST_RESULTS = 100
_MOST_TABS = 500  # whose last results are remembered, some 500 KB each; the one not used for longest gives way


def mount_page(app: FastAPI, service: SearchService, user_of: Callable[[Any], str]) -> None:
    """Puts the page at the root of an app, as the last of its routes.

    Args:
        user_of: whose a request is.
    """
    app.mount(_FILES, StaticFiles(directory=HERE / "static"))
    page = build_page(service, user_of)
    page.state_session_capacity = _MOST_TABS
    page.has_launched = True  # else gradio lets an event name any file of this machine, and copies it
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,  # it would write queries down in the browser
        show_error=False,
        ssr_mode=False,
        pwa=False,
        theme=_theme(),
        head=_HEAD,
    )


def build_page(service: SearchService, user_of: Callable[[Any], str]) -> gr.Blocks:
    """The page's parts, and what happens at each event."""
    facts = service.facts()
    session, listed = PageSession(), filter_lists(facts.fields)
    with gr.Blocks(title=f"FAFA: {facts.gallery}", analytics_enabled=False, fill_width=True) as blocks:
        header = _ours(view("header", facts=facts), "header", [])
        state = gr.State(session)
        with gr.Row(elem_id="fafa-columns"):
            with gr.Column(elem_id="fafa-question"):
                photo = _ours(
                    photo_shown(session, service.examples()),
                    "photo",
                    ["uploaded", "refused", "removed", "person", "example"],
                )
                sentence = gr.Textbox(
                    label="Sentence",
                    placeholder="now in a red coat, with a backpack",
                    max_lines=4,
                    max_length=MOST_CHARACTERS,
                    elem_id="fafa-sentence",
                )
                with gr.Row(elem_classes="fafa-pair"):
                    search = gr.Button("Search", variant="primary", elem_id="fafa-search", scale=3, min_width=120)
                    clear = gr.Button("Clear", scale=1, min_width=70)
                with gr.Accordion("Also wanted, not wanted", open=False, elem_id="fafa-wishes"):
                    wishes = _ours("", "wishes", ["weighed", "dropped"])
                    wish = gr.Textbox(
                        label="One more wish", placeholder="a backpack", max_lines=1, max_length=MOST_CHARACTERS
                    )
                    with gr.Row(elem_classes="fafa-pair"):
                        plus = gr.Button("+ Wanted", size="sm", min_width=80)
                        minus = gr.Button("− Not wanted", size="sm", min_width=80)
                with gr.Accordion("Filters", open=False, elem_id="fafa-filters"):
                    lists, taken_from, taken_to, where = _filters(listed, facts.fields)
                with gr.Accordion("Number of results, cut-off", open=False, elem_id="fafa-limits"):
                    top = gr.Slider(1, _MOST_RESULTS, 20, step=1, label="Results at most")
                    least_score = gr.Slider(-1, 1, -1, step=0.01, label="Least score", info="-1 shows all results")
                    false_alarm_rate = gr.Dropdown(
                        [("show the nearest in any case", 0), ("1 %", 0.01), ("5 %", 0.05), ("10 %", 0.1)],
                        value=0,
                        label="When nobody matches",
                        info="how often results may come all the same",
                        visible=facts.is_calibrated,
                    )
            with gr.Column(elem_id="fafa-answer"):
                message = _ours("", "message", [])
                with gr.Tabs(elem_id="fafa-tabs") as tabs:
                    with gr.Tab("Results", id=RESULTS):
                        events = ["opened", "right", "wrong", "refined", "unmarked", "followed"]
                        results = _ours(results_shown(session), "results", events)
                    with gr.Tab("History"):
                        searches = _ours(searches_shown(session), "asked", ["repeated"])
                    with gr.Tab("Saved searches"):
                        with gr.Row(elem_classes="fafa-pair"):
                            name = gr.Textbox(label="Name for the last search", max_length=80, max_lines=1, scale=3)
                            save = gr.Button("Save", scale=1, min_width=90)
                        kept = _ours("", "asked", ["taken_up", "forgotten"])
        in_details = ["closed", "next", "previous", "heated", "right", "wrong", "refined", "added"]
        details = _ours("", "details", in_details)
        gr.HTML(view("footer", lawful_use=LAWFUL_USE), apply_default_css=False)
        parts = PageParts(
            state,
            header,
            message,
            photo,
            sentence,
            wishes,
            wish,
            listed,
            lists,
            taken_from,
            taken_to,
            where,
            top,
            least_score,
            false_alarm_rate,
            results,
            details,
            searches,
            kept,
            name,
            tabs,
        )
        _connect(blocks, parts, PageEvents(service, user_of, parts), search, clear, plus, minus, save)
    return blocks


def _ours(value: str, kind: str, events: Sequence[str]) -> gr.HTML:
    """Markup of our own, with what page.js does for its kind and the events that it may send.

    Markup is given as the value alone: what stands in a gr.HTML's template is run as code.
    """
    return gr.HTML(
        value,
        head=_SCRIPT,
        js_on_load=f"fafa.{kind}(element, trigger, {list(events)!r}, watch)",
        apply_default_css=False,
        elem_id=f"fafa-{kind}" if kind != "asked" else None,
    )


def _filters(listed: Sequence[FilterField], fields: Sequence[FilterField]) -> tuple[Any, ...]:
    lists = [
        gr.Dropdown(one.values, value=[], multiselect=True, label=one.name.replace("_", " ").capitalize())
        for one in listed
    ]
    taken = next((field for field in fields if field.name == "taken"), None)
    between = "" if taken is None else f"from {str(taken.least)[:10]} to {str(taken.most)[:10]} here"
    with gr.Row(elem_classes="fafa-pair", visible=taken is not None):
        taken_from = gr.Textbox(label="Taken from", placeholder="2024-05-01", max_lines=1, min_width=100, info=between)
        taken_to = gr.Textbox(label="Taken to", placeholder="2024-05-31", max_lines=1, min_width=100, info="inclusive")
    names = ", ".join(field.name for field in fields) or "none: nothing is known of these images"
    where = gr.Textbox(
        label="Filter in words of its own",
        placeholder="camera == \"gate 3\" and not 'trip/' in path",
        info=f"Fields: {names}",
        max_lines=4,
        max_length=4_000,
    )
    return lists, taken_from, taken_to, where


def _connect(blocks: gr.Blocks, parts: PageParts, events: PageEvents, search, clear, plus, minus, save) -> None:
    """Says which event is answered by what."""
    # Without gradio's queue, each event is one request and its answer. With it answers come over a stream beside the
    # requests, and an event that arrives while the stream of the one before ends is lost. The service queues anyway.
    # Triggers are "multiple", since "once" drops what is clicked while something else is answered.
    options = {"queue": False, "trigger_mode": "multiple", "api_visibility": "private"}
    shown = {"outputs": parts.all, "show_progress": "hidden", **options}
    asks = {**shown, "show_progress": "minimal", "show_progress_on": parts.results}
    of_session, of_fields = [parts.session], [parts.session, *parts.fields]

    blocks.load(events.began, of_session, **shown)
    gr.on([search.click, parts.sentence.submit, parts.where.submit], events.searched, of_fields, **asks)
    clear.click(events.cleared, of_session, **shown)

    for event, does in ((parts.photo.uploaded, events.uploaded), (parts.photo.refused, events.refused)):
        event(does, of_session, **shown)
    parts.photo.removed(events.removed, of_session, **shown)
    parts.photo.person(events.person, of_session, **shown)
    parts.photo.example(events.example, of_fields, **asks)

    gr.on([plus.click, parts.wish.submit], events.wanted, [parts.session, parts.wish], **shown)
    minus.click(events.unwanted, [parts.session, parts.wish], **shown)
    parts.wishes.weighed(events.weighed, of_session, **shown)
    parts.wishes.dropped(events.dropped, of_session, **shown)

    parts.results.opened(events.opened, of_session, **shown)
    parts.results.unmarked(events.unmarked, of_session, **asks)
    parts.results.followed(events.followed, of_session, **asks)
    for part in (parts.results, parts.details):
        part.right(events.right, of_session, **asks)
        part.wrong(events.wrong, of_session, **asks)
        part.refined(events.refined, of_fields, **asks)
    parts.details.closed(events.closed, of_session, **shown)
    parts.details.next(events.next, of_session, **shown)
    parts.details.previous(events.previous, of_session, **shown)
    parts.details.heated(events.heated, of_session, **shown)
    parts.details.added(events.added, of_session, **shown)

    parts.searches.repeated(events.repeated, of_session, **asks)
    gr.on([save.click, parts.name.submit], events.saved, [parts.session, parts.name], **shown)
    parts.kept.taken_up(events.taken_up, of_session, **asks)
    parts.kept.forgotten(events.forgotten, of_session, **shown)


def _theme() -> gr.themes.Base:
    """The colours of static/page.css for gradio's own parts."""
    return gr.themes.Base(font=_FONT, font_mono=["ui-monospace", "monospace"], radius_size="lg").set(
        body_background_fill="var(--page)",
        body_background_fill_dark="var(--page)",
        body_text_color="var(--ink)",
        body_text_color_dark="var(--ink)",
        body_text_color_subdued="var(--grey)",
        body_text_color_subdued_dark="var(--grey)",
        background_fill_primary="var(--panel)",
        background_fill_primary_dark="var(--panel)",
        background_fill_secondary="var(--sunk)",
        background_fill_secondary_dark="var(--sunk)",
        border_color_primary="var(--faint)",
        border_color_primary_dark="var(--faint)",
        block_background_fill="var(--panel)",
        block_background_fill_dark="var(--panel)",
        block_border_color="var(--faint)",
        block_border_color_dark="var(--faint)",
        block_label_text_color="var(--ink)",
        block_label_text_color_dark="var(--ink)",
        block_title_text_color="var(--ink)",
        block_title_text_color_dark="var(--ink)",
        block_title_text_weight="600",
        block_info_text_color="var(--grey)",
        block_info_text_color_dark="var(--grey)",
        input_background_fill="var(--sunk)",
        input_background_fill_dark="var(--sunk)",
        input_border_color="var(--faint)",
        input_border_color_dark="var(--faint)",
        input_border_color_focus="var(--accent)",
        input_border_color_focus_dark="var(--accent)",
        input_placeholder_color="var(--grey)",
        input_placeholder_color_dark="var(--grey)",
        button_primary_background_fill="var(--accent)",
        button_primary_background_fill_dark="var(--accent)",
        button_primary_background_fill_hover="var(--accent)",
        button_primary_background_fill_hover_dark="var(--accent)",
        button_primary_text_color="var(--on-accent)",
        button_primary_text_color_dark="var(--on-accent)",
        button_secondary_background_fill="var(--panel)",
        button_secondary_background_fill_dark="var(--panel)",
        button_secondary_text_color="var(--ink)",
        button_secondary_text_color_dark="var(--ink)",
        button_secondary_border_color="var(--faint)",
        button_secondary_border_color_dark="var(--faint)",
        button_border_width="1px",
        button_border_width_dark="1px",
        button_primary_border_color="var(--accent)",
        button_primary_border_color_dark="var(--accent)",
        button_secondary_background_fill_hover="var(--sunk)",
        button_secondary_background_fill_hover_dark="var(--sunk)",
        color_accent="var(--accent)",
        slider_color="var(--accent)",
        slider_color_dark="var(--accent)",
    )
