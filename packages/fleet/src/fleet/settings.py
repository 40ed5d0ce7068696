"""Settings that several services of the control plane share; each service adds its own in its folder."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator

from fleet_wire.settings import CommonSettings

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(\d{1,5})")


def _host_and_port(value: str) -> str:
    match = _ADDRESS.fullmatch(value)
    if not match or not 0 < int(match[2]) < 65536:
        raise ValueError("must be host:port")
    return value


Address = Annotated[str, AfterValidator(_host_and_port)]
"""host:port; an IPv6 address stands in brackets."""


class OrchestratorPeers(CommonSettings):
    """Where the services are that the orchestrator calls; the defaults are their ports on this machine."""

    planning_address: Address = "127.0.0.1:50053"
    context_address: Address = "127.0.0.1:50051"
    ray_executor_address: Address = "127.0.0.1:50056"


class ServiceAddresses(OrchestratorPeers):
    """Where all gRPC services are, the orchestrator too."""

    orchestrator_address: Address = "127.0.0.1:50055"


class ServiceSettings(CommonSettings):
    """`bind_host` is loopback unless told otherwise: in a container it is 0.0.0.0."""

    bind_host: str = "127.0.0.1"


class GrpcSettings(ServiceSettings):
    grpc_port: int = Field(default=0, ge=0, le=65535)


class GraphSettings(ServiceSettings):
    """Any server that speaks Bolt: Neo4j, or the embedded one of the local stack."""

    neo4j_uri: str = "bolt://127.0.0.1:7687"
    neo4j_user: str = "neo4j"
    neo4j_password: SecretStr
    neo4j_database: str = "neo4j"

    @field_validator("neo4j_uri")
    @classmethod
    def _bolt_address(cls, value: str) -> str:
        if not value.startswith(("bolt://", "bolt+s://", "bolt+ssc://", "neo4j://", "neo4j+s://", "neo4j+ssc://")):
            raise ValueError("must begin with bolt:// or neo4j:// (or their +s forms)")
        urlsplit(value).port  # noqa: B018 (asking for it is the check)
        return value
