"""One training step told event by event: as lines, as a picture, and as a page to step through."""

from .events import TracedStep, TraceEvent, event_lines, same_gradients, trace_step
from .page import trace_run, write_page
from .timeline import TIMELINE_SIZE, draw_timeline, write_timeline

__all__ = [
    "TIMELINE_SIZE",
    "TraceEvent",
    "TracedStep",
    "draw_timeline",
    "event_lines",
    "same_gradients",
    "trace_run",
    "trace_step",
    "write_page",
    "write_timeline",
]
