"""What the release before the shape of today left in the graph is read as if it had been written now, however often converted."""

from collections.abc import Callable

from fleet.bolt import Graph, rows
from fleet.context import explaining
from fleet.context.migrations import MIGRATIONS
from fleet.migrations import migrate

OLD = """
CREATE (s:Story {story_id: $story, version: 3, born: 'b', title: 'Login', brief: 'b', acceptance: []})
CREATE (p:Plan {plan_id: $plan, story_id: $story, plan_version: 1, approved_by: 'ada', approved_at: $at})
CREATE (t:Task {key: $plan + '/api', plan_id: $plan, task_id: 'api', title: 'API'})
CREATE (d:Deliberation {deliberation_id: $delib, story_id: $story, plan_id: $plan, missing: '[]'})
CREATE (c:Decision {decision_id: $dec, deliberation_id: $delib, story_id: $story, plan_id: $plan, task_id: 'api', role: 'DEV',
                    protocol: 'vote', winner: 'w', title: 'Use it', content: 'c', rationale: 'r', words: 'c', score: 0.9,
                    margin: 0.5, decided_at: $at})
CREATE (b:Decision {decision_id: $base})
CREATE (w:Proposal {key: $delib + '/w', agent_id: $delib + 'w', rank: 1, score: 0.9, content: 'x', content_cut: false,
                    checks: '[{"name":"present","status":"passed","score":1.0}]'})
CREATE (l:Proposal {key: $delib + '/l', agent_id: $delib + 'l', rank: 2, score: 0.1, content: 'y', content_cut: false,
                    checks: '[]'})
CREATE (s)-[:HAS_PLAN]->(p)
CREATE (p)-[:HAS_TASK]->(t)
CREATE (t)-[:DELIBERATED_IN]->(d)
CREATE (d)-[:HAS_PROPOSAL]->(w)
CREATE (d)-[:HAS_PROPOSAL]->(l)
CREATE (d)-[:DECIDED]->(c)
CREATE (c)-[:CHOSE]->(w)
CREATE (l)-[:DISSENTS_FROM {content: 'y', argument: 'older'}]->(c)
CREATE (c)-[:BASED_ON]->(b)
CREATE (:Arrival {event: 'planning.story.created:' + $story, fingerprint: 'f', version: 1})
CREATE (:Arrival {event: 'planning.plan.approved:' + $plan, fingerprint: 'g', version: 2})
CREATE (:Arrival {event: 'orchestration.deliberation.ended:' + $delib, fingerprint: 'h', version: 3})"""


async def test_what_an_earlier_release_wrote_is_read_in_the_shape_of_this_one(
    each_bolt: Graph, unique: Callable[[str], str]
) -> None:
    await migrate(each_bolt, "context", MIGRATIONS)
    names = {name: unique(name) for name in ("story", "plan", "delib", "dec", "base")}
    at = "2026-03-01T12:00:00.000000Z"
    await each_bolt.write(lambda tx: rows(tx, OLD, at=at, **names))
    for _ in range(2):
        for statement in MIGRATIONS[1].statements:
            await each_bolt.write(lambda tx, statement=statement: rows(tx, statement))
    found = await explaining.explain(each_bolt, names["dec"])
    assert [(one.agent_id, [check.name for check in one.checks]) for one in found.proposals] == [
        (f"{names['delib']}w", ["present"]),
        (f"{names['delib']}l", []),
    ]
    assert [(one.agent_id, one.argument) for one in found.dissent] == [(f"{names['delib']}l", "older")]
    assert found.decision.kind == "council"
    around = await each_bolt.ask(
        "MATCH (c:Decision {decision_id: $dec})-[r]-(n) RETURN type(r) AS type, labels(n) AS labels ORDER BY type",
        dec=names["dec"],
    )
    assert [(row["type"], *row["labels"]) for row in around] == [
        ("AFFECTS", "Story"),
        ("DECIDED", "Deliberation"),
        ("DEPENDS_ON", "Decision"),
        ("DISSENTS", "Proposal"),
        ("SUPPORTS", "Proposal"),
    ]
    proposed = await each_bolt.ask(
        "MATCH (a:Agent)-[:PROPOSED]->(p:Proposal {deliberation_id: $delib}) RETURN a.agent_id AS id ORDER BY id",
        delib=names["delib"],
    )
    assert [row["id"] for row in proposed] == [f"{names['delib']}l", f"{names['delib']}w"]
    timeline = await each_bolt.ask(
        "MATCH (e:Event {story_id: $story}) RETURN e.kind AS kind, e.at AS at, e.summary AS summary ORDER BY e.version",
        story=names["story"],
    )
    assert [tuple(row.values()) for row in timeline] == [
        ("planning.story.created", "", "story created"),
        ("planning.plan.approved", at, f"plan {names['plan']} version 1 approved by ada"),
        ("orchestration.deliberation.completed", at, f"DEV council decided Use it ({names['dec']})"),
    ]
    left = "MATCH (n:Arrival) RETURN n.event AS event"
    assert await each_bolt.ask(left) == []
