"""What the store needs of the graph database. See `fleet.migrations`: a released one stays as it is."""

from fleet.migrations import Migration

MIGRATIONS = (
    Migration(
        1,
        (
            "CREATE CONSTRAINT planning_story_id IF NOT EXISTS FOR (s:PlanningStory) REQUIRE s.story_id IS UNIQUE",
            "CREATE CONSTRAINT planning_story_position IF NOT EXISTS FOR (s:PlanningStory) REQUIRE s.position IS UNIQUE",
            "CREATE CONSTRAINT planning_plan_id IF NOT EXISTS FOR (p:PlanningPlan) REQUIRE p.plan_id IS UNIQUE",
            "CREATE INDEX planning_plan_story IF NOT EXISTS FOR (p:PlanningPlan) ON (p.story_id)",
            "CREATE INDEX planning_plan_state IF NOT EXISTS FOR (p:PlanningPlan) ON (p.state)",
            "CREATE CONSTRAINT planning_transition_id IF NOT EXISTS FOR (t:PlanningTransition) REQUIRE t.transition_id IS UNIQUE",
            "CREATE INDEX planning_transition_story IF NOT EXISTS FOR (t:PlanningTransition) ON (t.story_id)",
            "CREATE CONSTRAINT planning_outbox_id IF NOT EXISTS FOR (o:PlanningOutbox) REQUIRE o.message_id IS UNIQUE",
        ),
    ),
)
