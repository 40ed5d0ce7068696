"""The local stack: starts and watches the real parts on one machine."""
