"""What the memory needs of the graph database. See `fleet.migrations`: a released one stays as it is."""

from fleet.migrations import Migration

MIGRATIONS = (
    Migration(
        1,
        (
            "CREATE CONSTRAINT context_story IF NOT EXISTS FOR (n:Story) REQUIRE n.story_id IS UNIQUE",
            "CREATE CONSTRAINT context_plan IF NOT EXISTS FOR (n:Plan) REQUIRE n.plan_id IS UNIQUE",
            "CREATE CONSTRAINT context_task IF NOT EXISTS FOR (n:Task) REQUIRE n.key IS UNIQUE",
            "CREATE CONSTRAINT context_deliberation IF NOT EXISTS FOR (n:Deliberation) REQUIRE n.deliberation_id IS UNIQUE",
            "CREATE CONSTRAINT context_proposal IF NOT EXISTS FOR (n:Proposal) REQUIRE n.key IS UNIQUE",
            "CREATE CONSTRAINT context_decision IF NOT EXISTS FOR (n:Decision) REQUIRE n.decision_id IS UNIQUE",
            "CREATE CONSTRAINT context_arrival IF NOT EXISTS FOR (n:Arrival) REQUIRE n.event IS UNIQUE",
        ),
    ),
    Migration(
        2,
        (
            "CREATE CONSTRAINT context_agent IF NOT EXISTS FOR (n:Agent) REQUIRE n.agent_id IS UNIQUE",
            "CREATE CONSTRAINT context_check IF NOT EXISTS FOR (n:Check) REQUIRE n.key IS UNIQUE",
            "CREATE CONSTRAINT context_event IF NOT EXISTS FOR (n:Event) REQUIRE n.event_id IS UNIQUE",
            "CREATE INDEX context_proposal_deliberation IF NOT EXISTS FOR (n:Proposal) ON (n.deliberation_id)",
            "CREATE INDEX context_decision_story IF NOT EXISTS FOR (n:Decision) ON (n.story_id)",
            "CREATE INDEX context_event_story IF NOT EXISTS FOR (n:Event) ON (n.story_id)",
            # What an earlier release wrote, in the shape of this one; a proposal keeps its checks as it has them.
            """
            MATCH (t:Task)-[r:DELIBERATED_IN]->(d:Deliberation)
            MERGE (d)-[:DELIBERATES]->(t) DELETE r""",
            """
            MATCH (d:Deliberation)-[r:HAS_PROPOSAL]->(p:Proposal)
            SET p.deliberation_id = d.deliberation_id DELETE r""",
            """
            MATCH (p:Proposal) WHERE NOT (:Agent)-[:PROPOSED]->(p)
            MERGE (a:Agent {agent_id: p.agent_id})
            CREATE (a)-[:PROPOSED]->(p)""",
            """
            MATCH (c:Decision)-[r:CHOSE]->(p:Proposal)
            MERGE (p)-[:SUPPORTS]->(c) DELETE r""",
            """
            MATCH (p:Proposal)-[r:DISSENTS_FROM]->(c:Decision)
            MERGE (p)-[n:DISSENTS]->(c) SET n.content = r.content, n.argument = r.argument DELETE r""",
            """
            MATCH (c:Decision)-[r:BASED_ON]->(b:Decision)
            MERGE (c)-[:DEPENDS_ON]->(b) SET b.lock = true DELETE r""",
            """
            MATCH (:Decision)-[r:DEPENDS_ON]->(b:Decision)
            WHERE b.dependents IS NULL WITH b, count(r) AS dependents SET b.dependents = dependents""",
            """
            MATCH (c:Decision) WHERE c.decided_at IS NOT NULL AND c.kind IS NULL AND c.story_id <> ''
            MERGE (s:Story {story_id: c.story_id})
            MERGE (c)-[:AFFECTS]->(s)""",
            "MATCH (c:Decision) WHERE c.decided_at IS NOT NULL AND c.kind IS NULL SET c.kind = 'council'",
            """
            MATCH (a:Arrival)
            MERGE (e:Event {event_id: a.event})
            SET e.fingerprint = a.fingerprint, e.version = a.version, e.kind = split(a.event, ':')[0],
                e.story_id = '', e.plan_id = '', e.at = '', e.summary = ''
            DELETE a""",
            """
            MATCH (e:Event) WHERE e.summary = '' AND e.kind STARTS WITH 'planning.story.'
            MATCH (s:Story {story_id: split(e.event_id, ':')[1]})
            SET e.story_id = s.story_id, e.summary = 'story ' + substring(e.kind, 15)""",
            """
            MATCH (e:Event) WHERE e.summary = '' AND e.kind = 'planning.plan.approved'
            MATCH (p:Plan {plan_id: split(e.event_id, ':')[1]})
            SET e.story_id = p.story_id, e.plan_id = p.plan_id, e.at = p.approved_at,
                e.summary = 'plan ' + p.plan_id + ' version ' + toString(p.plan_version) + ' approved by ' + p.approved_by""",
            """
            MATCH (e:Event) WHERE e.summary = '' AND e.kind = 'orchestration.deliberation.ended'
            MATCH (d:Deliberation {deliberation_id: split(e.event_id, ':')[1]})-[:DECIDED]->(c:Decision)
            SET e.kind = 'orchestration.deliberation.completed', e.story_id = c.story_id, e.plan_id = c.plan_id,
                e.role = c.role, e.at = c.decided_at,
                e.summary = c.role + ' council decided ' + c.title + ' (' + c.decision_id + ')'""",
        ),
    ),
)
