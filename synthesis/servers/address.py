"""Where a server is, and the key that it wants: a key goes where its owner meant it to go, and is never shown.

A recipe may come from anybody, and it names both a server and an environment variable. So the recipe alone does not
decide that a key is sent. The variable is known to belong to the host, the server runs on this machine, or the user
allowed it in the environment, where keys are:

    export FAFA_KEY_HOSTS="LAB_API_KEY=llm.example.org"            # several: NAME=HOST,NAME=HOST
    export FAFA_KEY_HOSTS="LAB_API_KEY=http://gpu7:8000"           # also without encryption

This module imports little: recipes are read without what talks to servers.
"""

import ipaddress
import os
import re
from typing import Annotated
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator

from ..components import SynthesisError

KEY_HOSTS = "FAFA_KEY_HOSTS"
# The hosts that a key belongs to, by the variable's name in the provider's own documentation.
_OWN_HOSTS = {
    "ANTHROPIC_API_KEY": ("api.anthropic.com",),
    "DASHSCOPE_API_KEY": ("dashscope.aliyuncs.com", "dashscope-intl.aliyuncs.com"),
    "DEEPSEEK_API_KEY": ("api.deepseek.com",),
    "FIREWORKS_API_KEY": ("api.fireworks.ai",),
    "GEMINI_API_KEY": ("generativelanguage.googleapis.com",),
    "GROQ_API_KEY": ("api.groq.com",),
    "HF_TOKEN": ("router.huggingface.co",),
    "MISTRAL_API_KEY": ("api.mistral.ai",),
    "NVIDIA_API_KEY": ("integrate.api.nvidia.com",),
    "OPENAI_API_KEY": ("api.openai.com",),
    "OPENROUTER_API_KEY": ("openrouter.ai",),
    "TOGETHER_API_KEY": ("api.together.xyz",),
    "XAI_API_KEY": ("api.x.ai",),
}
_ENDPOINT = re.compile(r"/(chat/completions|completions|responses|models|images/generations)/*$")
_HIDDEN = "***"
_SHORT_KEY = 8  # characters; a shorter one ("EMPTY") is hidden as a whole word only, and not in what a model wrote


def check_base_url(base_url: str) -> str:
    """The address, if it is one up to "/v1" and holds no password, which does not belong in a recipe.

    Raises:
        ValueError: the message begins with "base_url is".
    """
    shown = re.sub(r"([?#]).*", rf"\1{_HIDDEN}", hide_in_urls(base_url), flags=re.DOTALL)
    shown = f'base_url is "{shown}"'
    no_address = ValueError(f"{shown}, which is no address: expected one such as http://localhost:8000/v1")
    if not base_url.startswith(("http://", "https://")):
        raise ValueError(f"{shown}, and must start with http:// or https://")
    try:
        parts = urlsplit(base_url)
        _ = parts.port
    except ValueError:
        raise no_address from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            f"{shown}, which holds more than an address. Recipes are shared: leave out what follows ? or stands before "
            "@, and name the environment variable that holds the key as api_key_variable"
        )
    if not parts.hostname or re.search(r"[\s\\]|[^\x21-\x7e]", base_url):
        raise no_address
    if found := _ENDPOINT.search(parts.path):
        raise ValueError(f"{shown}, which goes too far: leave out {found[0]}, so that it ends with /v1")
    return base_url


def check_key_variable(name: str) -> str:
    """The name, if it can name an environment variable. It may be the key itself, so the message does not show it.

    Raises:
        ValueError: the message begins with "api_key_variable is".
    """
    if re.fullmatch(r"[A-Z_][A-Z0-9_]{0,99}", name) or name in os.environ:
        return name
    raise ValueError(
        f"api_key_variable is a text of {len(name)} characters, and must be the name of an environment variable, such "
        "as OPENAI_API_KEY. If it is the key itself: a key never belongs in a recipe"
    )


BaseUrl = Annotated[str, AfterValidator(check_base_url)]
KeyVariable = Annotated[str, AfterValidator(check_key_variable)]


def is_local(host: str) -> bool:
    """Whether a host is this machine, which is reached without a proxy or a network."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def hide_in_urls(text: str) -> str:
    """A text without the passwords and keys that its URLs hold."""
    text = re.sub(r"(?<=//)[^/\s@]*@(?=[^\s])", f"{_HIDDEN}@", text)
    return re.sub(r"(?i)([?&][\w-]*(?:key|token|secret|password|sig|signature)=)[^&\s\"']+", rf"\1{_HIDDEN}", text)


class Address:
    """A server's address, its host, and the `headers` that every request carries.

    Args:
        base_url: Up to and with "/v1".
        key_variable: Name of the environment variable that holds the key; None for servers that want none.

    Raises:
        SynthesisError: the variable is not set, holds no key, or only the recipe says that this server gets it.
    """

    def __init__(self, base_url: str, key_variable: str | None):
        self.url = base_url.rstrip("/")
        self.host = (urlsplit(base_url).hostname or "").lower()
        self.key_variable = key_variable
        self.headers = {"Accept": "application/json", "User-Agent": "fafa"}
        self._key: re.Pattern | None = None
        self._key_in_answers: re.Pattern | None = None
        if key_variable is not None:
            _check_may_send(key_variable, base_url)
            key = _read_key(key_variable)
            self.headers["Authorization"] = f"Bearer {key}"
            forms = "|".join(re.escape(form) for form in (key, quote(key, safe="")))
            if len(key) < _SHORT_KEY:
                self._key = re.compile(rf"(?<!\w)(?:{forms})(?!\w)")
            else:
                self._key = self._key_in_answers = re.compile(forms)
        if self.host == "api.openai.com":  # no other server needs to know
            for variable, header in (("OPENAI_ORG_ID", "Organization"), ("OPENAI_PROJECT_ID", "Project")):
                if value := os.environ.get(variable, "").strip():
                    self.headers[f"OpenAI-{header}"] = value

    def line(self, message: object, longest: int = 200) -> str:
        """A message on one short line, without the key."""
        text = " ".join(str(message).split())
        if self._key:
            text = self._key.sub(_HIDDEN, text)
        return hide_in_urls(text)[:longest]

    def without_key(self, answer: str) -> str:
        """What a model wrote, without the key: some servers repeat what they were sent."""
        return self._key_in_answers.sub(_HIDDEN, answer) if self._key_in_answers else answer

    @property
    def key_remedy(self) -> str:
        """What to do if the server refuses the key, or a request without one."""
        if self.key_variable is None:
            return "Name the environment variable that holds its key as api_key_variable in the recipe"
        return f"Correct the key in the environment variable {self.key_variable}, or name another as api_key_variable"


def _check_may_send(variable: str, base_url: str) -> None:
    """Refuse to send a key to a host that neither its name nor the user allows."""
    parts = urlsplit(base_url)
    host, place, is_plain = (parts.hostname or "").lower(), parts.netloc.lower(), parts.scheme == "http"
    if is_local(host) or (host in _OWN_HOSTS.get(variable, ()) and not is_plain):
        return
    for entry in re.findall(r"[^,;\s]+", os.environ.get(KEY_HOSTS, "")):
        match = re.fullmatch(r"(\w+)=(?:(https?)://)?([^/@=]+)(?:/.*)?", entry)
        if not match:
            raise SynthesisError(
                f"The environment variable {KEY_HOSTS} cannot be read: expected NAME=HOST, several separated by "
                f'commas, such as {KEY_HOSTS}="LAB_API_KEY=llm.example.org".'
            )
        name, scheme, allowed = match.groups()
        if name == variable and allowed.lower() in (host, place) and (scheme == "http" or not is_plain):
            return
    wish = f"{variable}={'http://' if is_plain else ''}{place}"
    why = "where anybody on the way can read it, for base_url begins with http://" if is_plain else "on its own"
    raise SynthesisError(
        f"{base_url}: the recipe would send the key in the environment variable {variable} to {host}, {why}. If you "
        f'mean it to: export {KEY_HOSTS}="{wish}" (several are separated by commas). Otherwise correct the recipe.'
    )


def _read_key(variable: str) -> str:
    """The key without the white space around it: editors and `$(cat key.txt)` leave a line break."""
    if not (key := os.environ.get(variable, "").strip()):
        raise SynthesisError(f"The environment variable {variable} holds no API key. Set it, or correct the recipe.")
    is_quoted = key[0] in "\"'`" or key[-1] in "\"'`"
    if is_quoted or key.lower().startswith("bearer") or re.search(r"[^\x21-\x7e]", key):
        raise SynthesisError(
            f"The environment variable {variable} holds more than an API key, or none: set it to the key alone, "
            "without quotes, blanks, line breaks, the word Bearer, or characters other than ASCII."
        )
    return key
