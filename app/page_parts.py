"""The parts of the page that events read and change, and what stands in its fields."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from .answers import FilterField
from .page_asking import Fields

Changes = dict[Any, Any]  # a part -> its new value
RESULTS = "results"  # the tab of that name


@dataclass
class PageParts:
    """The parts of the page.

    Args:
        lists: the filters that are lists of values: one for each of `listed`.
        searches: those of the session; `kept`: the saved ones; `name`: under which to save one.
    """

    session: gr.State
    header: gr.HTML
    message: gr.HTML
    photo: gr.HTML
    sentence: gr.Textbox
    wishes: gr.HTML
    wish: gr.Textbox
    listed: Sequence[FilterField]
    lists: Sequence[gr.Dropdown]
    taken_from: gr.Textbox
    taken_to: gr.Textbox
    where: gr.Textbox
    top: gr.Slider
    least_score: gr.Slider
    false_alarm_rate: gr.Dropdown
    results: gr.HTML
    details: gr.HTML
    searches: gr.HTML
    kept: gr.HTML
    name: gr.Textbox
    tabs: gr.Tabs

    @property
    def fields(self) -> list[Any]:
        """What a question is made of."""
        plain = [self.taken_from, self.taken_to, self.where, self.top, self.least_score, self.false_alarm_rate]
        return [self.sentence, *self.lists, *plain]

    @property
    def all(self) -> list[Any]:
        """What an event may change."""
        shown = [self.message, self.photo, self.wishes, self.wish, self.results, self.details, self.searches]
        return [self.session, *shown, self.kept, self.name, self.tabs, *self.fields, self.header]

    def read(self, values: Sequence[Any]) -> Fields:
        """What stands in the fields, of their values in the order of `fields`."""
        sentence, *chosen = values[: 1 + len(self.lists)]
        taken_from, taken_to, where, top, least_score, false_alarm_rate = values[1 + len(self.lists) :]
        names = [one.name for one in self.listed]
        return Fields(
            sentence or "",
            dict(zip(names, chosen, strict=True)),
            taken_from or "",
            taken_to or "",
            where or "",
            int(top),
            None if least_score <= -1 else least_score,
            false_alarm_rate or None,
        )

    def write(self, fields: Fields) -> Changes:
        """Fields as they are to be shown."""
        return {
            self.sentence: fields.sentence,
            **{part: list(fields.chosen.get(one.name, ())) for one, part in zip(self.listed, self.lists, strict=True)},
            self.taken_from: fields.taken_from,
            self.taken_to: fields.taken_to,
            self.where: fields.where,
            self.top: min(fields.top, self.top.maximum),  # a program may have asked for what is not offered here
            self.least_score: -1 if fields.least_score is None else fields.least_score,
            self.false_alarm_rate: self._offered(fields.false_alarm_rate),
        }

    def _offered(self, rate: float | None) -> float:
        """The nearest rate of false alarms that can be chosen; 0 for none."""
        offered = [value for _, value in self.false_alarm_rate.choices if value]
        return min(offered, key=lambda value: abs(value - rate)) if rate else 0
