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
)
