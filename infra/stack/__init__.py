"""The embedded stack: every server that the queue needs, on the loopback address of one machine."""

from infra.stack.stack import stack_status, start_stack, stop_stack
from infra.stack.supervise import PartStatus

__all__ = ["PartStatus", "stack_status", "start_stack", "stop_stack"]
