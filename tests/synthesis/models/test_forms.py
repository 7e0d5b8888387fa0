"""What is sent to a server: fields that a recipe adds and leaves out, and servers that refuse one or the other."""

import json
import logging
import re

import pytest
from server_requests import SCHEMA, requests_for, short_pauses  # noqa: F401 - a fixture
from stub_server import Raw, StubServer, fill, last_text, schema_of

from fafa.synthesis.components import SynthesisError
from fafa.synthesis.models import ServerModel
from fafa.synthesis.settings import RecipeError, deciding, differences, read_settings


def settings_for(server: StubServer, **options) -> ServerModel:
    return ServerModel(**{"model": server.model, "base_url": server.url, "concurrency": 4, "max_retries": 2, **options})


def openai_says(name: str, message: str, code: str = "unsupported_parameter") -> Raw:
    return Raw({"error": {"message": message, "type": "invalid_request_error", "param": name, "code": code}}, 400)


# As servers say it: OpenAI, vLLM, Mistral (FastAPI), Gemini, Azure, Groq, Anthropic.
REFUSALS = {
    "temperature": [
        openai_says(
            "temperature",
            "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) is supported.",
            "unsupported_value",
        ),
        Raw(
            [
                {
                    "error": {
                        "code": 400,
                        "message": 'Invalid JSON payload received. Unknown name "temperature": Cannot find',
                    }
                }
            ],
            400,
        ),
        Raw({"error": {"message": "property 'temperature' is unsupported"}}, 400),
    ],
    "top_p": [
        openai_says("top_p", "Unsupported parameter: 'top_p' is not supported with this model."),
        Raw({"error": {"message": "`temperature` and `top_p` cannot both be specified for this model."}}, 400),
    ],
    "seed": [
        Raw(
            {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
            422,
        ),
        Raw(
            {
                "object": "error",
                "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'Extra inputs'}]",
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            },
            400,
        ),
        Raw({"error": {"message": "Unrecognized request argument supplied: seed"}}, 400),
        Raw({"error": "seed is not supported"}, 501),
    ],
    "max_tokens": [
        openai_says(
            "max_tokens",
            "Unsupported parameter: 'max_tokens' is not supported with it. Use 'max_completion_tokens' instead.",
        )
    ],
}
TABLE = [(name, refusal) for name, refusals in REFUSALS.items() for refusal in refusals]


@pytest.mark.parametrize(("name", "refusal"), TABLE, ids=[f"{name}-{place}" for place, (name, _) in enumerate(TABLE)])
def test_a_field_that_a_server_refuses_by_name_is_left_out_said_once_and_noted(caplog, name, refusal):
    with StubServer(refuses={name: refusal}) as server:
        model = settings_for(server, max_tokens=77).load()
        replies = list(model.answer(requests_for(6)))
    assert [reply.fault for reply in replies] == [None] * 6
    assert server.counts["refused"] == 1
    sent = server.bodies[-1]
    assert name not in sent
    assert sent.get("max_completion_tokens") == (77 if name == "max_tokens" else None)
    assert set(sent) >= {"temperature", "top_p", "seed"} - {name}
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    note = "max_tokens is sent as max_completion_tokens" if name == "max_tokens" else f"{name} is left out"
    assert model.about["changes of the request"] == [note] and note in caplog.text


def test_a_server_that_refuses_every_field_one_after_the_other_is_asked_without_them():
    names = ("seed", "temperature", "top_p", "max_tokens", "max_completion_tokens")
    refuses = {name: f"Unknown parameter: '{name}'." for name in names}
    with StubServer(refuses=refuses) as server:
        model = settings_for(server).load()
        assert [reply.fault for reply in model.answer(requests_for(3))] == [None] * 3
    assert set(server.bodies[-1]) == {"model", "messages"}
    assert model.about["changes of the request"] == [
        f"{name} is left out" for name in ("max_tokens", "seed", "temperature", "top_p")
    ]


def test_a_run_that_is_gone_on_with_finds_the_same_form():
    with StubServer(refuses={"seed": "Unknown parameter: 'seed'."}) as server:
        first, second = (settings_for(server).load().about for _ in range(2))
    assert first == second and first["changes of the request"] == ["seed is left out"]


def test_a_value_that_a_server_refuses_is_not_left_out():
    """It was meant; without it another distribution would be drawn from."""
    message = "temperature must be between 0 and 1, found 1.3"
    with StubServer(refuses={"temperature": message}) as server, pytest.raises(SynthesisError, match=message):
        settings_for(server, temperature=1.3).load()


def test_a_prompt_too_long_is_that_items_fault_though_the_server_names_max_tokens():
    message = (
        "'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum context length is 2048 tokens "
        "and your request has 1900 input tokens"
    )
    with StubServer(lambda body, chance: (400, message) if "person 0" in last_text(body) else "a woman") as server:
        model = settings_for(server, concurrency=1).load()
        faults = [reply.fault for reply in model.answer(requests_for(3))]
    assert faults[0].startswith("error 400: 'max_tokens' or") and faults[1:] == [None, None]
    assert "max_tokens" in server.bodies[-1] and "changes of the request" not in model.about


def test_a_refusal_of_one_item_in_words_like_a_fields_changes_nothing():
    def answer(body, chance):
        is_odd = "person 0" in last_text(body) and "seed" in body  # by chance it would be answered without
        return (400, 'not allowed: "a hen that picks up a seed"') if is_odd else "a woman"

    with StubServer(answer) as server:
        model = settings_for(server, concurrency=1).load()
        faults = [reply.fault for reply in model.answer(requests_for(3))]
    assert faults[0].startswith("error 400: not allowed") and faults[1:] == [None, None]
    assert "seed" in server.bodies[-1] and "changes of the request" not in model.about


def by_form(taken: str, refusal):
    """Answers schemas in one form only, and refuses the forms before it."""
    order = ["json_schema", "json_object", "in words"]

    def answer(body, chance):
        form = body.get("response_format", {}).get("type", "in words")
        if schema_of(body) is None:
            return "a woman"
        return json.dumps(fill(SCHEMA, chance)) if order.index(form) >= order.index(taken) else refusal

    return answer


SCHEMA_REFUSALS = {
    "400 by name": (
        400,
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
    ),
    "400 without a name": (400, "Bad request"),
    "404": (404, "No endpoints found that can handle the requested parameters."),
    "422": (422, "Input should be 'text' or 'json_object'"),
    "500": (500, "Internal server error"),
    "501": (501, "Not implemented"),
}


@pytest.mark.parametrize("taken", ["json_object", "in words"])
@pytest.mark.parametrize("kind", SCHEMA_REFUSALS)
def test_a_server_that_takes_no_schemas_is_asked_for_json_or_in_words_and_said_so_once(caplog, kind, taken):
    with StubServer(by_form(taken, SCHEMA_REFUSALS[kind])) as server:
        model = settings_for(server).load()
        replies = list(model.answer(requests_for(12, schema=SCHEMA)))
    assert [reply.fault for reply in replies] == [None] * 12
    assert all(set(json.loads(reply.text)) == {"caption", "score"} for reply in replies)
    assert server.bodies[-1].get("response_format", {}).get("type", "in words") == taken
    how = "as a wish for JSON, and put into words" if taken == "json_object" else "in words"
    assert model.about["changes of the request"] == [f"JSON schemas are sent {how}"]
    assert caplog.text.count("does not take what it was sent") == 1


def test_a_schema_is_not_given_up_for_what_happens_to_one_item():
    """A 400 without a reason, and errors 500 in a row, while the server takes schemas; by chance not in other forms."""

    def answer(body, chance):
        by_schema = "response_format" in body
        if "person 0" in last_text(body) and by_schema:
            return 400, "Bad request"
        if "person 1" in last_text(body) and by_schema:
            return 500, "Internal server error"
        return json.dumps(fill(SCHEMA, chance)) if schema_of(body) else "a woman"

    with StubServer(answer) as server:
        model = settings_for(server, concurrency=1).load()
        faults = {reply.id: reply.fault for reply in model.answer(requests_for(4, schema=SCHEMA))}
    assert faults == {
        "0": "error 400: Bad request",
        "1": "error 500, 3 times: Internal server error",
        "2": None,
        "3": None,
    }
    assert server.bodies[-1]["response_format"]["type"] == "json_schema"


def test_what_a_recipe_adds_and_leaves_out_is_sent_so():
    added = {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}, "max_completion_tokens": 99}
    leave_out = ["temperature", "seed", "max_tokens", "response_format"]
    with StubServer() as server:
        model = settings_for(server, options=added, leave_out=leave_out).load()
        (reply,) = model.answer(requests_for(1, schema=SCHEMA))
    assert set(json.loads(reply.text)) == {"caption", "score"}
    assert set(server.bodies[-1]) == {"model", "messages", "top_p", *added}
    assert {name: server.bodies[-1][name] for name in added} == added
    assert "changes of the request" not in model.about


def test_an_option_that_a_server_refuses_ends_the_work_and_is_named():
    """It is the recipe's wish, so it is not left out silently."""
    refuses = {"enable_thinking": "Unrecognized request argument supplied: enable_thinking"}
    with (
        StubServer(refuses=refuses) as server,
        pytest.raises(SynthesisError, match="Take enable_thinking out of the rec"),
    ):
        settings_for(server, options={"enable_thinking": False}).load()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"enable_thinkin": False}}, "enable_thinkin is not known; did you mean 'enable_thinking'?"),
        ({"options": {"chat_template_kwargs": {"enable_thinkin": False}}}, "did you mean 'enable_thinking'?"),
        ({"options": {"resoning_effort": "low"}}, "did you mean 'reasoning_effort'?"),
        ({"options": {"temprature": 0.3}}, "did you mean 'temperature'?"),
        ({"options": {"temperature": 0.3}}, "temperature is decided elsewhere: use the setting of that name"),
        ({"options": {"stream": True}}, "stream is decided elsewhere"),
        ({"options": {"max_completion_tokens": 9}}, "max_completion_tokens is decided elsewhere"),
        ({"options": {"extra_body": {"top_k": 5}}}, "write its fields under options themselves"),
        ({"options": {"api_key": "sk-abcdefgh"}}, "a key never belongs in a recipe"),
        ({"options": {"top_k": {1, 2}}}, "top_k cannot be sent as JSON"),
        ({"leave_out": ["top-p"]}, "found 'top-p'; did you mean 'top_p'?"),
        ({"leave_out": ["messages"]}, "expected 'temperature', 'top_p', 'seed', 'max_tokens' or 'response_format'"),
        ({"leave_out": "seed"}, "leave_out: expected"),
        ({"option": {}}, "there is no setting 'option'; did you mean 'options'?"),
        ({"extra_body": {}}, "there is no setting 'extra_body'"),
    ],
)
def test_a_misspelt_option_is_refused_by_name_and_no_key_is_shown(changes, message):
    with pytest.raises(RecipeError, match=re.escape(message)) as raised:
        read_settings(ServerModel, {"model": "tiny", **changes}, "recipe.yaml: writer")
    assert "sk-abcdefgh" not in str(raised.value)


def test_a_recipe_without_options_goes_on_where_an_earlier_version_stopped():
    now = deciding(ServerModel(model="tiny"))
    before = {name: value for name, value in now.items() if name not in ("options", "leave_out")}
    assert differences(before, now) == []


def test_a_server_that_takes_no_such_schema_in_any_form_is_not_asked_over_and_over():
    def answer(body, chance):
        return (400, "Bad request") if schema_of(body) else "a woman"

    with StubServer(answer) as server:
        model = settings_for(server, concurrency=1).load()
        with pytest.raises(SynthesisError, match=r"none of 20 items.*error 400: Bad request"):
            list(model.answer(requests_for(40, schema=SCHEMA)))
    assert len(server.bodies) <= 1 + 2 * 20 + 3
