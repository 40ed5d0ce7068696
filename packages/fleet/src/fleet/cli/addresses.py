"""Where the services are: what the environment says, else the stack that runs in this folder, else the usual ports here."""

from pydantic import Field

from fleet.local.addresses import use_running_stack
from fleet_wire.settings import CommonSettings, load


class Addresses(CommonSettings):
    """host:port of each service. MONITORING_PORT is one of this machine."""

    planning_address: str = "127.0.0.1:50053"
    orchestrator_address: str = "127.0.0.1:50055"
    context_address: str = "127.0.0.1:50051"
    ray_executor_address: str = "127.0.0.1:50056"
    monitoring_port: int = Field(default=8080, ge=1, le=65535)

    @property
    def monitoring_url(self) -> str:
        return f"http://127.0.0.1:{self.monitoring_port}"


def addresses() -> Addresses:
    """Raises Invalid naming the variable that is wrong."""
    use_running_stack()
    return load(Addresses)
