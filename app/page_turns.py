"""How each event of the page is answered: in its turn, whole or not at all, what goes wrong in one sentence."""

import asyncio
import logging
from collections.abc import Callable
from copy import copy
from functools import wraps
from typing import Any

from pydantic import ValidationError

from .api import sentence_of
from .faults import Refused
from .page_parts import Changes
from .page_session import PageSession

logger = logging.getLogger(__name__)

_OPENS_WITHIN = 3.0  # seconds


def in_turn(event: Callable[..., Any]) -> Callable[..., Any]:
    """An event that tells what goes wrong in one sentence on the page, and takes an earlier sentence away.

    One that goes wrong changes nothing of the tab: what is asked next is what is shown.
    """

    @wraps(event)
    async def answer(self: Any, session: PageSession, *values: Any) -> Changes:
        try:
            if event.__name__ == "began":
                session.has_begun.set()
            await _begun(session)
            async with session.turn:
                before = {
                    name: copy(value) if isinstance(value, dict) else value for name, value in vars(session).items()
                }
                try:
                    changes = {self.parts.message: "", **await event(self, session, *values)}
                except BaseException:  # that its browser has gone away, too
                    vars(session).update(before)
                    raise
        except Refused as refusal:
            changes = self.say(refusal.sentence, "error")
        except ValidationError as error:
            changes = self.say(sentence_of(error.errors()[0]), "error")
        except Exception:
            logger.exception("an event of the page could not be answered")
            changes = self.say("Something went wrong here, not on your side; the server's log says what.", "error")
        return {self.parts.session: session, **changes}

    return answer


async def _begun(session: PageSession) -> None:
    """Waits for the event that opens the page, which a quick click may overtake.

    Raises:
        Refused: it does not come: the server has forgotten the tab, and would ask without the photo that it shows.
    """
    try:
        await asyncio.wait_for(session.has_begun.wait(), _OPENS_WITHIN)
    except asyncio.TimeoutError:
        raise Refused("This page was left for too long, or the server began anew: load the page again.") from None
