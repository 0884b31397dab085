"""Whatever may crash runs in a process of its own: how one is started, asked and ended."""

from medattn_edge.process.child import Child, ChildLost
from medattn_edge.process.serving import Handler, Reply, leave_the_end_to_the_parent, serve

__all__ = ["Child", "ChildLost", "Handler", "Reply", "leave_the_end_to_the_parent", "serve"]
