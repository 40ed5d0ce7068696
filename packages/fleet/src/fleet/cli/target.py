"""What a person watches: a plan, a story, a deliberation, or everything. Pure: which events belong to it, and when it ends."""

from collections.abc import Iterable
from typing import Literal

from fleet_wire import events

Kind = Literal["plan", "story", "deliberation", "everything"]


class Target:
    """Learns from the events themselves which deliberations belong to a plan or story; give those known before."""

    def __init__(self, kind: Kind, name: str = "", deliberations: Iterable[str] = ()) -> None:
        self.kind = kind
        self.name = name
        self.ended = False
        self._deliberations = set(deliberations)
        self._plans: set[str] = {name} if kind == "plan" else set()
        self._unremembered: set[str] = set()
        if kind == "deliberation":
            self._deliberations.add(name)

    @property
    def finished(self) -> bool:
        """Whether it has ended and every decision seen has reached the graph: nothing more is to come."""
        return self.ended and not self._unremembered

    def takes(self, event: events.Event) -> bool:
        """Whether the event belongs to it."""
        if self.kind == "everything":
            return True
        if not self._belongs(event):
            return False
        self._learn(event)
        return True

    def _belongs(self, event: events.Event) -> bool:
        if getattr(event, "deliberation_id", None) in self._deliberations:
            return True
        if self.kind == "deliberation":
            return False
        if getattr(event, "plan_id", None) in self._plans:
            return True
        return self.kind == "story" and getattr(event, "story_id", None) == self.name

    def _learn(self, event: events.Event) -> None:
        deliberation_id = getattr(event, "deliberation_id", "")
        if deliberation_id:
            self._deliberations.add(deliberation_id)
        plan_id = getattr(event, "plan_id", "")
        if plan_id and self.kind == "story":
            self._plans.add(plan_id)
        if isinstance(event, events.DeliberationCompleted):
            self._unremembered.add(deliberation_id)
        if isinstance(event, events.ContextUpdated):
            self._unremembered.discard(deliberation_id)
        if self.kind == "plan" and isinstance(event, events.PlanCompleted):
            self.ended = True
        if self.kind == "deliberation" and isinstance(event, (events.DeliberationCompleted, events.DeliberationFailed)):
            self.ended = True
