"""gRPC in: requests to values, values to answers."""

import dataclasses
import datetime as dt
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from fleet.bolt import Graph
from fleet.context import (
    changemessages,
    changes,
    contextmessages,
    domain,
    explaining,
    handlers,
    reading,
    rehydrating,
    scopes,
    search,
    updating,
)
from fleet.context.cache import ContextCache
from fleet.context.related import RelatedDecision
from fleet.context.sessions import Sessions
from fleet.context.telling import Publish
from fleet.context.tokenizer import Tokenizer
from fleet_wire import clock, ids
from fleet_wire.errors import Invalid, Unavailable
from fleet_wire.gen.context.v1 import context_pb2, context_pb2_grpc
from fleet_wire.rpc import Readiness, timestamp

NAME = context_pb2.DESCRIPTOR.services_by_name["ContextService"].full_name


class ContextService(context_pb2_grpc.ContextServiceServicer):
    """Every call is UNAVAILABLE with the reason while the service is not ready. The server listens before NATS is there, so that
    health answers; `publish` is set once it is."""

    def __init__(
        self,
        readiness: Readiness,
        memory: Graph,
        reader: reading.Reader,
        cache: ContextCache,
        tokenizer: Tokenizer,
        scopes: domain.Scopes,
        sessions: Sessions,
    ) -> None:
        self._readiness = readiness
        self._memory = memory
        self._reader = reader
        self._recorded = reading.reader(memory)  # of what is in the graph, and of nothing else
        self._cache = cache
        self._tokenizer = tokenizer
        self._scopes = scopes
        self._sessions = sessions
        self.publish: Publish | None = None

    async def GetContext(  # type: ignore[override, unused-ignore]
        self, request: context_pb2.GetContextRequest, context: Any
    ) -> context_pb2.GetContextResponse:
        wanted = domain.checked(
            request.story_id,
            request.plan_id,
            request.task_id,
            request.role,
            request.phase,
            request.token_budget,
            request.required_decision_ids,
            self._scopes,
        )
        self._readiness.require()
        answer, from_cache = await handlers.get_context(wanted, self._reader, self._cache, self._tokenizer)
        answer.from_cache = from_cache
        return answer

    async def ValidateScope(  # type: ignore[override, unused-ignore]
        self, request: context_pb2.ValidateScopeRequest, context: Any
    ) -> context_pb2.ValidateScopeResponse:
        scope = domain.scope_of(request.role, request.phase, self._scopes)
        found = scopes.compared(scope, request.kinds)
        return context_pb2.ValidateScopeResponse(
            allowed=found.allowed,
            allowed_kinds=found.allowed_kinds,
            missing=found.missing,
            extra=found.extra,
            depends_on=scope.depends_on,
            affects=scope.affects,
        )

    async def ExplainDecision(  # type: ignore[override, unused-ignore]
        self, request: context_pb2.ExplainDecisionRequest, context: Any
    ) -> context_pb2.ExplainDecisionResponse:
        ids.check_id("decision_id", request.decision_id)
        self._readiness.require()
        found = await explaining.explain(self._memory, request.decision_id)
        return context_pb2.ExplainDecisionResponse(
            decision=_decision(found.decision),
            proposals=[_proposal(proposal) for proposal in found.proposals],
            dissent=[
                context_pb2.Dissent(agent_id=entry.agent_id, content=entry.content, argument=entry.argument)
                for entry in found.dissent
            ],
            missing=[context_pb2.MissingAgent(agent_id=entry.agent_id, reason=entry.reason) for entry in found.missing],
            based_on=[one.decision_id for one in found.related.bases],
            story_title=found.story_title,
            task_title=found.task_title,
            numbers=found.how.numbers,
            chosen_because=found.how.chosen_because,
            verdicts=found.how.verdicts,
            flips=found.how.flips,
            skipped=[context_pb2.SkippedPhase(phase=it.phase, reason=it.reason) for it in found.how.skipped],
            calls=found.how.calls,
            tokens=found.tokens,
            duration_seconds=found.duration_seconds,
            bases=map(_related, found.related.bases),
            dependents=map(_related, found.related.dependents),
            dependents_cut=found.related.dependents_cut,
            supersedes=map(_related, found.related.supersedes),
            superseded_by=map(_related, found.related.superseded_by),
            affects=found.related.affects,
            constrains=found.related.constrains,
        )

    async def SearchDecisions(  # type: ignore[override, unused-ignore]
        self, request: context_pb2.SearchDecisionsRequest, context: Any
    ) -> context_pb2.SearchDecisionsResponse:
        wanted = search.search_of(
            request.query,
            request.story_id,
            request.plan_id,
            request.role,
            request.page_size,
            request.page_token,
            _moment("since", request.since) if request.HasField("since") else None,
            _moment("until", request.until) if request.HasField("until") else None,
        )
        self._readiness.require()
        found = await search.search(self._memory, wanted)
        return context_pb2.SearchDecisionsResponse(
            decisions=[_decision(decision) for decision in found.decisions],
            next_page_token=found.token,
            relevance=found.scores,
        )

    async def UpdateContext(  # type: ignore[override, unused-ignore]
        self, request: context_pb2.UpdateContextRequest, context: Any
    ) -> context_pb2.UpdateContextResponse:
        asked = [changemessages.change_of(change) for change in request.changes]
        changes.check_request(request.request_id, request.actor, asked)
        self._readiness.require()
        if self.publish is None:
            raise Unavailable("nats: not connected yet")
        results = await updating.update(
            request.request_id, request.actor, asked, self._memory, self._cache, self.publish, clock.now()
        )
        return context_pb2.UpdateContextResponse(results=[changemessages.result_message(one) for one in results])

    async def RehydrateSession(  # type: ignore[override, unused-ignore]
        self, request: context_pb2.RehydrateSessionRequest, context: Any
    ) -> context_pb2.RehydrateSessionResponse:
        session = ids.check_id("session_id", request.session_id)
        wanted = domain.checked(
            request.story_id,
            request.plan_id,
            request.task_id,
            request.role,
            request.phase,
            request.token_budget,
            (),
            self._scopes,
            whole_plan=True,
        )
        self._readiness.require()
        found = await rehydrating.rehydrate(
            session, wanted, self._memory, self._recorded, self._tokenizer, self._sessions, clock.now()
        )
        return context_pb2.RehydrateSessionResponse(
            blocks=map(contextmessages.block_message, found.context.blocks),
            left_out=map(contextmessages.left_out_message, found.context.left_out),
            timeline=[_entry(entry) for entry in found.timeline],
            tokens=found.tokens,
            tokenizer=found.context.tokenizer,
            version=found.context.version,
            hash=found.context.hash,
            since=_since(found),
        )


def _entry(entry: rehydrating.Entry) -> context_pb2.TimelineEntry:
    told = entry.told
    at = timestamp(dt.datetime.fromisoformat(told.at)) if told.at else None
    return context_pb2.TimelineEntry(
        event_id=told.event_id, kind=told.kind, at=at, summary=entry.text, version=entry.version
    )


def _since(found: rehydrating.Rehydrated) -> context_pb2.Since | None:
    if found.since is None:
        return None
    names = [entry.told.event_id for entry in found.new]
    return context_pb2.Since(at=timestamp(found.since.at), version=found.since.version, event_ids=names)


def _moment(field: str, given: Timestamp) -> dt.datetime:
    try:
        return given.ToDatetime(tzinfo=dt.timezone.utc)
    except (ValueError, OverflowError) as error:
        raise Invalid(f"{field} must be a time from the year 1 to 9999") from error


def _decision(decision: domain.Decision) -> context_pb2.Decision:
    return context_pb2.Decision(
        decision_id=decision.decision_id,
        deliberation_id=decision.deliberation_id,
        story_id=decision.story_id,
        plan_id=decision.plan_id,
        task_id=decision.task_id,
        role=decision.role,
        protocol=decision.protocol,
        winner=decision.winner,
        title=decision.title,
        content=decision.content,
        rationale=decision.rationale,
        score=decision.score,
        margin=decision.margin,
        decided_at=timestamp(decision.decided_at),
        kind=decision.kind,
        decided_by=decision.decided_by,
        superseded_by=decision.superseded_by,
        relies_on_superseded=decision.relies_on_superseded,
    )


def _related(decision: RelatedDecision) -> context_pb2.RelatedDecision:
    return context_pb2.RelatedDecision(**dataclasses.asdict(decision))


def _proposal(proposal: explaining.Proposal) -> context_pb2.Proposal:
    return context_pb2.Proposal(
        agent_id=proposal.agent_id,
        rank=proposal.rank,
        score=proposal.score,
        checks=[
            context_pb2.Check(name=check.name, status=check.status, score=check.score or 0, detail=check.detail)
            for check in proposal.checks
        ],
        content=proposal.content,
        content_cut=proposal.content_cut,
        revised=proposal.revised,
    )
