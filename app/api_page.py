"""The page that describes the API, made of its OpenAPI description alone: it fetches nothing from elsewhere."""

import html
from typing import Any

_STYLE = """
body { font: 1rem/1.5 system-ui; max-width: 56rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font-family: ui-monospace, monospace; font-size: .9em } pre { overflow-x: auto; padding: .75rem;
border: 1px solid #8884; border-radius: .4rem } table { border-collapse: collapse; width: 100% }
td, th { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid #8884 }
h2 { margin-top: 2.5rem }
"""


def api_page(described: dict[str, Any], address: str) -> str:
    """HTML.

    Args:
        described: what `FastAPI.openapi` gives. `address`: of this server, for the examples.
    """
    schemas = described["components"]["schemas"]
    calls = "".join(
        _call(method.upper(), path, call, schemas)
        for path, methods in described["paths"].items()
        for method, call in methods.items()
    )
    example = (
        f"curl -b jar -c jar --data-binary @me.jpg {address}api/uploads\n"
        f'curl -b jar -c jar --json \'{{"terms": [{{"image": "ID", "caption": "now in a red coat"}}]}}\' '
        f"{address}api/search"
    )
    models = "".join(
        f'<h3 id="{html.escape(name)}">{html.escape(name)}</h3><p>{html.escape(schema.get("description", ""))}</p>'
        f"{_table(schema.get('properties', {}), schema.get('required', ()))}"
        for name, schema in schemas.items()
    )
    title = html.escape(described["info"]["title"])
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: API</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<style>{_STYLE}</style></head><body><main><h1>{title}: API</h1><p>{html.escape(described["info"]["description"])}
Uploads and saved searches belong to whoever sends the cookie that the first answer sets. Errors are
<code>{{"detail": "one sentence"}}</code>. For programs: <a href="/openapi.json">openapi.json</a>.</p>
<pre>{html.escape(example)}</pre>{calls}<h2>What is sent and answered</h2>{models}</main></body></html>"""


def _call(method: str, path: str, call: dict[str, Any], schemas: dict[str, Any]) -> str:
    asked = {one["name"]: one["schema"] for one in call.get("parameters", ())}
    bodies = call.get("requestBody", {}).get("content", {})
    body = "".join(f"<p>Send: {_kind(of['schema'])} ({html.escape(kind)})</p>" for kind, of in bodies.items())
    given = [
        f"{status}: {_kind(of['schema'])} ({html.escape(kind)})"
        for status, answer in call["responses"].items()
        if status.startswith("2")
        for kind, of in answer.get("content", {}).items()
        if of.get("schema")
    ]
    required = [one["name"] for one in call.get("parameters", ()) if one.get("required")]
    return (
        f"<h2><code>{method} {html.escape(path)}</code></h2><p>{html.escape(call['summary'])}.</p>"
        f"{_table(asked, required)}{body}<p>{'<br>'.join(given)}</p>"
    )


def _table(properties: dict[str, Any], required: Any) -> str:
    rows = "".join(
        f"<tr><td><code>{html.escape(name)}</code>{'' if name in required else ' (may be left out)'}</td>"
        f"<td>{_kind(schema)}</td><td>{html.escape(schema.get('description', ''))}</td></tr>"
        for name, schema in properties.items()
    )
    return f"<table><tr><th>name</th><th>kind</th><th>meaning</th></tr>{rows}</table>" if rows else ""


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = html.escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        inner = schema.get("items") or {}
        return f"list of {_kind(inner)}" if inner else "list"
    return html.escape(str(schema.get("type") or schema.get("format") or "anything"))
