"""Where the services are: what the environment says, else the stack that runs in this folder, else the usual ports here."""

from pydantic import Field

from fleet.local.addresses import use_running_stack
from fleet.settings import ServiceAddresses
from fleet_wire.settings import load


class Addresses(ServiceAddresses):
    """host:port of each service. MONITORING_PORT is one of this machine."""

    monitoring_port: int = Field(default=8080, ge=1, le=65535)

    @property
    def monitoring_url(self) -> str:
        return f"http://127.0.0.1:{self.monitoring_port}"


def addresses() -> Addresses:
    """Raises Invalid naming the variable that is wrong."""
    use_running_stack()
    return load(Addresses)
