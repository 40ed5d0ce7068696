"""What planning is told by its environment."""

from pydantic import Field

from fleet.settings import GraphSettings, GrpcSettings


class PlanningSettings(GraphSettings, GrpcSettings):
    grpc_port: int = Field(default=50053, ge=0, le=65535)
