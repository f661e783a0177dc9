"""Where a deployment is, and how it is reached: `model`, `api_base`, `api_key` and their like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from theo_daemon.addresses import check_http_url
from theo_daemon.litellm.draft import Draft
from theo_daemon.litellm.providers import PROVIDERS, Known, split_model, why_not
from theo_daemon.litellm.values import Place, variable_for

USUAL_AZURE_VERSION = "2024-10-21"  # the latest of those that are no preview
VERTEX = "VERTEX_AUTHORIZATION"

TAKEN = frozenset(
    [
        "model",
        "custom_llm_provider",
        "api_base",
        "base_url",
        "api_key",
        "api_version",
        "organization",
        "extra_headers",
        "default_headers",
        "headers",
        "extra_query",
        "default_query",
        "vertex_project",
        "vertex_location",
        "vertex_credentials",
        "azure_ad_token",
    ]
)


class LeftOut(Exception):
    """The deployment cannot be reached from here; the text says why."""


def read_endpoint(asked: str, name: str, params: Mapping[str, Any], mode: str, place: Place) -> Draft:
    """The beginning of a draft. Raises LeftOut."""
    model = place.text(params, "model")
    if model is None:
        raise LeftOut("it names no model")
    if "*" in model:
        raise LeftOut("wildcards have no equivalent: each model has an entry of its own")
    whose, own_name = split_model(model, place.text(params, "custom_llm_provider"))
    known = PROVIDERS.get(whose or "")
    if known is None or whose is None:
        raise LeftOut(why_not(whose))
    if not own_name:
        raise LeftOut("it names no model")
    draft = Draft(
        asked=asked, name=name, provider=known.provider, model=own_name, whose=whose, headers={}, query={}, routing={}
    )  # fmt: skip
    draft.remarks = [f"LiteLLM: {model}"]
    if known.told:
        draft.remarks.append(known.told)
        place.told(known.told)
    if whose == "openai" and (mode == "responses" or own_name.startswith("responses/")):
        draft.provider, draft.model = "openai_responses", own_name.removeprefix("responses/")
    endpoint = _Endpoint(draft, known, whose, params, place)
    endpoint.find()
    endpoint.add_headers()
    endpoint.add_key()
    return draft


class _Endpoint:
    """Fills in where a draft's model is."""

    def __init__(
        self, draft: Draft, known: Known, whose: str, params: Mapping[str, Any], place: Place
    ) -> None:
        self._draft, self._known, self._whose = draft, known, whose
        self._params, self._place = params, place
        self._base = self._given_base()

    def find(self) -> None:
        draft, known, base = self._draft, self._known, self._base
        match self._whose:
            case "azure":
                self._azure()
            case "vertex_ai":
                self._vertex()
            case _ if base is not None:
                draft.base_url = base if base.endswith(known.suffix) else base + known.suffix
            case _ if known.base_url is None:
                raise LeftOut("it names no api_base")
            case _:
                draft.base_url = known.base_url
        if self._whose == "fireworks_ai" and "/" not in draft.model:
            draft.model = f"accounts/fireworks/models/{draft.model}"

    def add_headers(self) -> None:
        draft, params, place = self._draft, self._params, self._place
        for key, target in (
            *(
                ("default_headers", draft.headers),
                ("extra_headers", draft.headers),
                ("headers", draft.headers),
            ),
            *(("default_query", draft.query), ("extra_query", draft.query)),
        ):
            given = params.get(key)
            for name, value in given.items() if isinstance(given, Mapping) else ():
                variable = variable_for(draft.name, str(name))
                read = place.values.header(str(name), value, f"{place.where} {key}", variable)
                if read is not None:
                    target[str(name)] = read
        organization = place.text(params, "organization")
        if organization is not None:
            draft.headers["OpenAI-Organization"] = organization

    def add_key(self) -> None:
        draft, place = self._draft, self._place
        reference = self._key()
        host = urlsplit(draft.base_url or "").hostname or ""
        if self._whose == "azure" and not host.endswith(".azure.com") and reference is not None:
            draft.headers["api-key"] = reference  # behind a name of one's own it is not recognised as Azure
        else:
            draft.api_key = reference
        if reference is None and self._whose == "openai":
            place.told("no api_key for its api_base in the file: none is sent")

    def _key(self) -> str | None:
        values, where, key = self._place.values, self._place.where, self._known.key
        given = self._params.get("api_key")
        if given is not None:
            return values.secret(given, f"{where} api_key", variable_for(self._draft.name, "api_key"))
        if self._params.get("azure_ad_token") is not None:
            raise LeftOut("Entra ID tokens have no equivalent: give it an api_key, and import again")
        if key is None or (self._whose == "openai" and self._base is not None):
            return None  # a server of one's own must not be sent the key of another
        values.wanted.setdefault(key, where)
        return f"env:{key}"

    def _given_base(self) -> str | None:
        """`api_base`, checked. Raises LeftOut for one that cannot be used, since the usual place would be another."""
        key = "api_base" if self._params.get("api_base") is not None else "base_url"
        if self._params.get(key) is None:
            return None
        text = self._place.text(self._params, key)
        if text is None:
            raise LeftOut(f"{key} is not known")
        try:
            return check_http_url(text.strip())
        except ValueError as error:
            raise LeftOut(f"{key} {error}") from None

    def _azure(self) -> None:
        """One deployment of one resource; the API's version is a query parameter."""
        draft, base, place = self._draft, self._base, self._place
        if base is None:
            raise LeftOut("it names no api_base")
        if base.endswith("/openai/v1"):  # the newer surface, without versions
            draft.base_url = base
            return
        draft.base_url = (
            base if "/openai/deployments/" in base else f"{base}/openai/deployments/{draft.model}"
        )
        version = place.text(self._params, "api_version")
        if version is None:
            version = USUAL_AZURE_VERSION
            place.lost(f"api_version is not in the file; {version} was put in its place: check it")
        draft.query["api-version"] = version

    def _vertex(self) -> None:
        draft, place = self._draft, self._place
        if not draft.model.startswith("gemini"):
            raise LeftOut("of Vertex AI only Gemini models are reached here")
        project, location = (
            place.text(self._params, "vertex_project"),
            place.text(self._params, "vertex_location"),
        )
        if project is None or location is None:
            raise LeftOut("Vertex AI needs vertex_project and vertex_location in the file")
        host = (
            "aiplatform.googleapis.com" if location == "global" else f"{location}-aiplatform.googleapis.com"
        )
        draft.base_url = f"https://{host}/v1/projects/{project}/locations/{location}/publishers/google"
        draft.region = location
        draft.headers["Authorization"] = f"env:{VERTEX}"
        place.values.wanted.setdefault(VERTEX, f"{place.where}: Bearer, a blank and an access token")
        place.lost(
            f"Vertex AI takes access tokens that end within the hour, and {VERTEX} is read at the start: renew it, and "
            "restart. A key of AI Studio (gemini/...) does not end"
        )
