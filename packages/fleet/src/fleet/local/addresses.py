"""Where the stack of this folder runs, so that commands find it without variables. What the environment says comes first."""

import os
from collections.abc import Mapping, MutableMapping

from fleet.local import home as homes

GRAPH = ("NEO4J_USER", "NEO4J_PASSWORD", "NEO4J_DATABASE")
MODEL = ("VLLM_MODEL",)


def stack_env(home: homes.Home | None = None) -> dict[str, str]:
    """The settings of the stack that runs in the folder; empty where none does."""
    home = home or homes.find()
    if not home.is_running():
        return {}
    env = (home.read_record() or {}).get("env", {})
    return {str(name): str(value) for name, value in env.items()}


def settings(home: homes.Home | None = None, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment, completed by the settings of the running stack.

    User, password and database of the stack's graph are of no use with another one, so they come only with its address;
    with the model's name it is the same.
    """
    stack = stack_env(home)
    for address, companions in (("NEO4J_URI", GRAPH), ("VLLM_URL", MODEL)):
        if environment.get(address, stack.get(address)) != stack.get(address):
            for name in companions:
                stack.pop(name, None)
    return {**stack, **environment}


def use_running_stack(environment: MutableMapping[str, str] = os.environ) -> None:
    """Completes this process's environment by the settings of the stack that runs in this folder, if one does."""
    environment.update(settings(homes.find(), environment))
