"""The local stack: starts and watches the real parts on one machine.

    async with running_stack(home, free_ports=True) as stack:   # fleet.local.stack
        stack.env["ORCHESTRATOR_ADDRESS"], stack.part("nats").kill(), stack.log_path("context")

`parts` says what there is, `stack` starts it as a whole, `running` starts and watches each part, `guard` ends it when this
process cannot, and `addresses` tells other commands where it runs.
"""
