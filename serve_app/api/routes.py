"""The routes other than completions and streams: models, routing, feedback, health, metrics."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from time import monotonic, time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from serve_app import __version__
from serve_app.api import shapes
from serve_app.api.body import parse_object, read_body
from serve_app.api.dialects.fields import rules_of
from serve_app.api.http.exposition import exposed
from serve_app.api.middleware import CALLER, METRICS, Caller, Ids
from serve_app.api.openapi import Content, Operation, answers
from serve_app.api.query import chat_request, check, hinted, requested_class
from serve_app.api.reply import decision_json, json_response
from serve_app.api.schemas import ChatRequest, FeedbackRequest
from serve_app.errors import JethroError, ModelNotFound, RequestError
from serve_app.gateway.catalogue import ModelEntry
from serve_app.gateway.services import Services
from serve_app.observability.request_span import begin_attributes, note_decision
from serve_app.store.base import TIE, Feedback, RequestRecord
from serve_app.streams.base import PREFIX
from serve_app.tracing.spans import TraceSpan, serving, spanned
from serve_app.unrecorded import Undecided
from serve_app.wire.frames import Call

_COUNTERPART = {"small": "large", "large": "small"}
"""The pool compared with by default: the two required pools are compared with each other."""


def checked_feedback(given: FeedbackRequest, pool: str | None, pools: Collection[str]) -> Feedback:
    """The feedback to store, with the name of the pool compared with.

    `pool` is the decision's, required where `given` prefers one. Raises RequestError naming the parameter.
    """
    if given.score is None and given.preferred is None:
        raise RequestError("Give score, preferred or both.", param="score", code="missing_required_parameter")
    score = None if given.score is None else float(given.score)
    if given.preferred is None:
        if given.against is not None:
            raise _invalid("against", "is only allowed with preferred")
        return Feedback(given.decision_id, score, given.comment)
    assert pool is not None
    other = given.preferred if given.preferred not in (TIE, pool) else given.against or _COUNTERPART.get(pool)
    if other is None:
        raise _invalid("against", f"name the pool that {pool!r} was compared with")
    named = "preferred" if other == given.preferred else "against"
    if other not in pools:
        raise _invalid(named, f"no pool {other!r}; pools are {', '.join(pools)}")
    if other == pool or given.against not in (None, other):
        raise _invalid("against", f"one of the two pools compared is {pool!r}, which answered; {other!r} is the other")
    return Feedback(given.decision_id, score, given.comment, given.preferred, other)


def _invalid(param: str, why: str) -> RequestError:
    return RequestError(f"{param}: {why}.", param=param, code="invalid_value")


class Routes:
    """Handlers over the services."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._started_s = int(time())
        self._ids = Ids()
        self._rules = rules_of(services.config)

    def operations(self) -> list[Operation]:
        """All of them, described."""
        return [*self._model_operations(), *self._decision_operations(), *self._operator_operations()]

    async def models(self, request: Request) -> Response:
        """Every name that callers may put in `model`."""
        data = [self._model(entry) for entry in self._listed(request)]
        return json_response({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        """One of them, by its id."""
        name = request.path_params["model_id"]
        for entry in self._listed(request):
            if entry.id == name:
                return json_response(self._model(entry))
        if name.startswith(PREFIX):
            raise ModelNotFound(f"The model {name[:100]!r} does not exist.", param="model")
        self._services.catalogue.resolve(name)  # unlisted, such as router-NAME-THRESHOLD
        return json_response(self._model(ModelEntry(name, "router with a threshold of your own")))

    def _listed(self, request: Request) -> list[ModelEntry]:
        """All names but those of other tenants' streams."""
        streams, tenant = self._services.streams, _caller(request).tenant
        return [e for e in self._services.catalogue.models() if streams is None or streams.shown(e.id, tenant)]

    async def route(self, request: Request) -> Response:
        """The decision that a chat request would get, without calling a model."""
        if (tracing := self._services.tracing) is None:
            return await self._route(request)
        caller, path = _caller(request), request.url.path
        span = tracing.request(f"POST {path}", request.scope["headers"])
        if not isinstance(span, TraceSpan):
            return await self._route(request)
        span.set(begin_attributes("chat", path, caller.request_id, caller.tenant))
        with serving(span, JethroError.status):
            response = await self._route(request)
            span.answered(response.status_code)
            return response

    async def _route(self, request: Request) -> Response:
        services, caller, started = self._services, _caller(request), monotonic()
        body = await read_body(request.scope, request.receive, services.config.limits.body_bytes)
        parsed = chat_request(parse_object(body), services.config.limits, caller.tenant, self._rules)
        record = RequestRecord(
            caller.request_id, "route", time(), parsed.model, tenant=caller.tenant, status="route_only"
        )
        record.user, record.safety_identifier = parsed.query.user, parsed.query.safety_identifier
        requested, id_ = requested_class(request.scope["headers"]), self._ids.new()
        strategy = services.catalogue.resolve(parsed.model)
        with Undecided() as undecided:
            query, detected = hinted(parsed.query, request.scope["headers"]), Counter[str]()
            if services.sessions is not None:
                query, _ = services.sessions.find(query, parsed.model, request.scope["headers"])
            if services.placement is not None:
                placed = await services.placement.place(query, requested, Call(id_, caller.request_id, 0))
                query = placed.query
                detected.update({f"placement.{category}": n for category, n in placed.detected.items()})
            undecided.decide(query.stays_unrecorded)
            record.unrecorded = query.stays_unrecorded
            if services.config.store.keep_prompts and not query.stays_unrecorded:
                record.prompt = query.text
            with spanned("decide") as span:
                decision = await strategy.decide(query, id_)
                note_decision(span, decision)
        record.trace_id = span.trace_id if span is not None else None
        place = None if services.placement is None else services.placement.place_of(decision.pool)
        decision = services.scope.noted(parsed.model, query, decision)
        record.decision = decision = replace(decision, privacy=query.privacy, place=place, guards=detected)
        record.latency_ms = (monotonic() - started) * 1e3
        services.settle(record)
        return json_response(decision_json(decision))

    async def feedback(self, request: Request) -> Response:
        """Store a caller's feedback; answers when it is durable."""
        services = self._services
        body = await read_body(request.scope, request.receive, services.config.limits.body_bytes)
        given = check(FeedbackRequest, parse_object(body))
        record = await self._own_record(request, given.decision_id)
        if given.comment is not None and record.get("privacy") == "local":
            raise _invalid("comment", "the request was of privacy class local, of which no text is kept: leave it out")
        feedback = checked_feedback(given, record["pool"], services.pools)
        await services.store.feedback(feedback)
        services.recorder.feedback(record, feedback.score)
        if feedback.score is not None:
            services.routers.observe_feedback(record, feedback.score)
        return json_response({"decision_id": given.decision_id, "stored": True})

    async def routers(self, request: Request) -> Response:
        """The routers in service: versions, thresholds, and whether live traffic has drifted."""
        data = [{"id": f.name, "object": "router", **asdict(f)} for f in self._services.routers.figures()]
        return json_response({"object": "list", "data": data})

    async def live(self, request: Request) -> Response:
        """The process answers."""
        return json_response({"ok": True})

    async def ready(self, request: Request) -> Response:
        """Whether every routed query can be answered, and whether by the pools that are meant to."""
        readiness = self._services.readiness()
        response = json_response(asdict(readiness), 200 if readiness.ok else 503)
        if not readiness.ok:
            response.headers["retry-after"] = str(self._services.config.gateway.retry_after_s)
        return response

    async def metrics(self, request: Request) -> Response:
        """The Gateways' own metrics, then those of the replicas: Prometheus' text format, or OpenMetrics."""
        services = self._services
        own = (await services.gateways()).encode() if services.gateways is not None else services.recorder.text()
        text = own + (await services.scrape()).encode()
        return await exposed(request, text)

    async def version(self, request: Request) -> Response:
        """The version of this software, under vLLM's key."""
        return json_response({"version": __version__})

    async def _own_record(self, request: Request, decision_id: str) -> Mapping[str, Any]:
        return await self._services.store.decision(decision_id, _caller(request).tenant)

    def _model(self, entry: ModelEntry) -> dict[str, Any]:
        pool = None if entry.pool is None else self._services.config.pools.get(entry.pool)
        return {
            "id": entry.id,
            "object": "model",
            "created": self._started_s,
            "owned_by": "jethro",
            "description": entry.description,
            "pool": entry.pool,
            "type": "embedding" if entry.embeds else "chat",
            "embedded": pool is not None and pool.embedded,
        }

    def _model_operations(self) -> list[Operation]:
        one, id_ = "/v1/models/{model_id:path}", {"model_id": "The model's id; it may hold slashes."}
        found = answers(shapes.MODEL)
        return [
            Operation("GET", "/v1/models", "list_models", "List models.", self.models, answers(shapes.MODELS)),
            Operation("GET", one, "get_model", "One model.", self.model, found, (400, 404), parameters=id_),
        ]

    def _decision_operations(self) -> list[Operation]:
        decide, judge = "The decision that a chat request would get, without an answer.", "Rate an answer."
        routers = "The routers in service."
        decision, stored = answers(shapes.DECISION), answers(shapes.STORED)
        reads, writes = (400, 403, 404, 413, 503), (400, 404, 409, 413, 503)
        return [
            Operation(
                "POST", "/v1/route", "route_query", decide, self.route, decision, reads, ChatRequest, placed=True
            ),
            Operation("POST", "/v1/feedback", "give_feedback", judge, self.feedback, stored, writes, FeedbackRequest),
            Operation("GET", "/v1/routers", "list_routers", routers, self.routers, answers(shapes.ROUTERS)),
        ]

    def _operator_operations(self) -> list[Operation]:
        ready = (Content(shapes.READY, "Ready, degraded or not."),)
        not_ready = (Content(shapes.READY, "Queries cannot be answered: see `why` of the pools."),)
        text = tuple(Content(shapes.TEXT, media_type=kind) for kind in ("text/plain", "application/openmetrics-text"))
        health: dict[int, tuple[Content, ...]] = {200: ready, 503: not_ready}
        version = answers(shapes.VERSION)
        return [
            Operation("GET", "/health/live", "live", "Alive.", self.live, answers(shapes.ALIVE), open=True),
            Operation("GET", "/health/ready", "ready", "Ready.", self.ready, health, open=True),
            Operation("GET", "/health", "health", "Ready, as other servers say it.", self.ready, health, open=True),
            Operation("GET", "/ping", "ping", "Ready, as SageMaker asks.", self.ready, health, open=True),
            Operation("GET", "/version", "version", "The version of this software.", self.version, version),
            Operation("GET", METRICS, "metrics", "Metrics.", self.metrics, {200: text}),
        ]


def _caller(request: Request) -> Caller:
    caller: Caller = request.scope[CALLER]
    return caller
